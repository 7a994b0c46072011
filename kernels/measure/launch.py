"""How Triton measures a step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..options import OPTIONS, launch
from .kernels import measure_kernel


def measure(sigma: Tensor, opacity: Tensor, emptiness: Tensor, update: Tensor, sums: Tensor) -> Tensor:
    """See `sjc_fast.kernels.measure`."""
    objects = sums.shape[:-1].numel()
    counts = (len(sigma) // objects, opacity.numel() // objects, update.numel() // objects, sums.shape[-1])
    out = torch.empty(*sums.shape[:-1], 5, device=sigma.device)
    with torch.cuda.device_of(sigma):
        launch(measure_kernel, objects)(
            sigma, opacity, emptiness, update, sums, out, *counts,
            BLOCK=4096, **(OPTIONS | {"num_warps": 16}),
        )  # fmt: skip
    return out
