"""The trainer, one run of it, and what a run calls."""
