"""What environments that build molecules share."""
