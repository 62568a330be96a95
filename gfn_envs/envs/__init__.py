"""The environments, a file or a folder each."""
