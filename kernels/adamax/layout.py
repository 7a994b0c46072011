"""How the gradients of a parameter may lie in memory."""

from __future__ import annotations

from torch import Tensor


def gradient_rows(grad: Tensor) -> tuple[int, int, int]:
    """Where the numbers of a gradient lie: those in a row, the stride of rows, and the stride of numbers in a row.

    Raises:
        ValueError: its axes have more than two strides of their own.
    """
    runs: list[tuple[int, int]] = []  # (numbers, stride), last axes first, where axes that continue each other are one
    for size, stride in zip(reversed(grad.shape), reversed(grad.stride()), strict=True):
        if size == 1:
            continue
        if runs and stride == runs[-1][0] * runs[-1][1]:
            runs[-1] = (runs[-1][0] * size, runs[-1][1])
        else:
            runs.append((size, stride))
    if len(runs) > 2:
        raise ValueError(f"a gradient of strides {list(grad.stride())} has more than two axes of its own")
    if len(runs) < 2:
        return 1, runs[0][1] if runs else 1, 0
    (inner, near), (_outer, far) = runs
    return inner, far, near
