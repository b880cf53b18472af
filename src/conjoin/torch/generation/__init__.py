"""`generate`: from arguments to tokens."""
