"""The JAX backend. See README.md."""
