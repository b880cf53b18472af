"""From tokenizer files to a tokenizer, and back."""
