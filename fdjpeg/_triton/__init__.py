"""GPU kernels in Triton, for devices without kernels in the compiled library."""
