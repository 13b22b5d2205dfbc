"""What tests of several rooms share: backends, oracles, cases, and the kernels run without a GPU."""
