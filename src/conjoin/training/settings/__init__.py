"""What a user sets, in Python, YAML and on the command line."""
