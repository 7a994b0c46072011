"""PyTorch's own CUDA code on a runtime without a device: what is captured, launched, copied, waited for and allocated.

``python -m tests.fakecuda [--only step,devices] [--save]``, by a Python whose torch is a CUDA build.
"""
