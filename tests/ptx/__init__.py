"""The PTX that Triton compiles, executed in NumPy: the kernels' tests on compiled code, without a GPU."""
