"""Baselines on the same environments, mostly from other libraries, compared on the same metrics."""
