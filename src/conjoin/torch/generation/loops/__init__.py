"""The decoding loops, one file per way."""
