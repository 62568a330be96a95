"""Commands that make the files shipped with QM9Blocks."""
