"""RNA strands and how strongly they bind to a longer one."""
