"""What computes on a CPU in place of PyTorch's own operations."""
