"""Kernels in C++, of no framework: compiled here, called by the backends."""
