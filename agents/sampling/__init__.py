"""Trajectories: how they are sampled and kept."""
