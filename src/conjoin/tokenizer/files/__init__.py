"""Tokenizer files: finding, reading, writing them."""
