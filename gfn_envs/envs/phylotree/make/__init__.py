"""How the data files of gfn/PhyloTree-v0 were made."""
