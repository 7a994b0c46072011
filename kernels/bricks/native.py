"""On a CPU PyTorch's own pooling is fast enough: the naive twin serves."""

from .reference import brick_maximum

__all__ = ["brick_maximum"]
