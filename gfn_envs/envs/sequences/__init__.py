"""What environments that write words share: the orders of writing, and words whose rewards stand in a table."""
