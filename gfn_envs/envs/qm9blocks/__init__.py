"""Molecules as rows of building blocks, scored by the gap network of QM9."""
