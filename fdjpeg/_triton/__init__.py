"""GPU kernels in Triton, for devices and ops without kernels in the compiled library."""
