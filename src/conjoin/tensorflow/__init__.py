"""The TensorFlow backend. See README.md."""
