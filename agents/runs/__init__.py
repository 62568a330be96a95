"""Runs on disk: command lines, folders, reports, sweeps, comparisons."""
