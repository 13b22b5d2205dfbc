"""GPU kernels in Triton, for devices on which the compiled library holds none."""
