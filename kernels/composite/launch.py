"""How Triton composites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor

from ..options import OPTIONS, launch
from .kernels import LANES_A_RAY, RAYS_A_PROGRAM, composite_gradient_kernel, composite_kernel

if TYPE_CHECKING:
    from . import Composite, Samples, Saved


def forward(out: tuple[Tensor, ...], samples: Samples, step: float, beta: float) -> None:
    """Write features, depth, opacity, emptiness and d_emptiness."""
    _run(composite_kernel, (*samples, *out), samples, step, beta)


def backward(
    grads: tuple[Tensor, ...], samples: Samples, saved: Saved, upstream: Composite, step: float, beta: float
) -> None:
    """Write the gradients of density and features."""
    _run(composite_gradient_kernel, (*samples, *saved, *upstream, *grads), samples, step, beta)


def _run(kernel: Any, tensors: tuple[Tensor, ...], samples: Samples, step: float, beta: float) -> None:
    rays, count = samples.density.shape
    if rays:
        with torch.cuda.device_of(samples.density):
            launch(kernel, triton.cdiv(rays, RAYS_A_PROGRAM))(
                *(x.contiguous() for x in tensors), rays, count, step, beta,
                C=samples.background.shape[-1], RAYS=RAYS_A_PROGRAM, LANES=LANES_A_RAY, **OPTIONS,
            )  # fmt: skip
