"""Tensors in, tensors out: the innermost loops, with no knowledge of fields, prompts or configurations.

An operation is a folder: the op and its mathematics (`__init__.py`), Triton's kernels (`kernels.py`) and how they are
launched (`launch.py`), the compiled C++ code's side (`native.py`, over csrc/), and a naive twin (`reference.py`).
"""
