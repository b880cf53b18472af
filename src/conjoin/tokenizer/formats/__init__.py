"""What tokenizer files hold: which files there are, their contents checked, and the settings in them."""
