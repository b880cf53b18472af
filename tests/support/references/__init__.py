"""Decoding as papers describe it: one hypothesis at a time, no cache, lists instead of tensors."""
