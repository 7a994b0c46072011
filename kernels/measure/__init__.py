"""`measure`: the numbers that a training step reports, in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import choose_backend, implementation


@torch.no_grad()
def measure(
    sigma: Tensor,  # [V] float32, as all of them
    opacity: Tensor,  # [V, h, w]
    emptiness: Tensor,  # [V]
    update: Tensor,  # [V, C, h, w]
    sums: Tensor,  # [n] partial sums, from `adamax_steps`; or [S, n], where S objects share the views evenly
    *,
    backend: str | None = None,
) -> Tensor:
    """Means of sigma, opacity and emptiness, root mean square of the update, and the sum of the sums: [5] or [S, 5].

    Args:
        backend: "triton" or "cpu"; default by the tensors' device.
    """
    backend = choose_backend(sigma, backend)
    return _measure(sigma, opacity, emptiness, update, sums, backend)


@torch.library.custom_op("sjc_fast::measure", mutates_args=())
def _measure(sigma: Tensor, opacity: Tensor, emptiness: Tensor, update: Tensor, sums: Tensor, backend: str) -> Tensor:
    tensors = [x.contiguous() for x in (sigma, opacity, emptiness, update, sums)]
    return implementation("measure", backend).measure(*tensors)


@_measure.register_fake
def _(sigma: Tensor, opacity: Tensor, emptiness: Tensor, update: Tensor, sums: Tensor, backend: str) -> Tensor:
    return sigma.new_empty((*sums.shape[:-1], 5))
