"""Phylogenetic trees: rooted binary trees over taxa, scored by parsimony on an alignment."""
