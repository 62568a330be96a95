"""Default settings by environment: a function of what a run chose, for each preset."""
