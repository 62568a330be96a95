"""Sets of nodes of one graph: independent sets, cliques, dominating sets."""
