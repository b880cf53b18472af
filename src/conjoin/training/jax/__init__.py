"""Training on JAX: the same data, arguments and run folder as on PyTorch. Read `run.py` first."""
