"""Benchmarks: `pytest benchmarks/` for kernels and steps, `python -m benchmarks.NAME` for whole measurements."""
