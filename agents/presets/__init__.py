"""Default settings by environment: each preset is a function of a run's choices."""
