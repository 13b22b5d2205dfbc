"""Common parts of the tests of several rooms: backends, oracles, cases, and the kernels run without a GPU."""
