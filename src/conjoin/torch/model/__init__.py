"""Bricks and the stack that is built of them, as modules."""
