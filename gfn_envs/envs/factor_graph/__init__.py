"""Factor graphs: assignments of discrete variables, the Ising model among them."""
