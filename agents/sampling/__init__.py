"""Sampling and storage of trajectories."""
