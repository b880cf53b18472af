"""Texts from files: lines, pairs to train and evaluate on, sources to generate from. No framework."""
