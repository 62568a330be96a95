"""Commands that make the files shipped with RNABinding."""
