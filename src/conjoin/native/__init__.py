"""Framework-free C++ kernels: compiled here, called by the backends."""
