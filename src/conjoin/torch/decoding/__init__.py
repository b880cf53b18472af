"""Decoding loops: greedy, sampling, beams of every kind, contrastive, speculative."""
