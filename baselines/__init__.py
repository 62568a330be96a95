"""Baselines from other libraries on the same environments, compared on the same metrics."""
