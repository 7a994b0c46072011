"""How Triton makes the network's input and turns its answers into updates."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ..options import OPTIONS, launch
from .kernels import BLOCK_SIZE, REGRESSION_BLOCK, paas_update_kernel, perturb_kernel, regress_kernel

#: sigma, c_skip, c_skip - 1, c_out, [V] each.
Numbers = tuple[Tensor, Tensor, Tensor, Tensor]


def perturb(
    out: Tensor,
    x: Tensor,
    sigma: Tensor,
    c_in: Tensor,
    seed: Tensor,
    step: Tensor,
    noise_samples: int,
    antithetic: bool,
    doubled: bool,
    patch: int,
    channels_last: bool,
    share: list[int],
) -> None:
    """Write the noised copies."""
    drawn = _drawn(noise_samples, antithetic)
    with torch.cuda.device_of(x):
        objects, views = seed.numel(), len(x) // seed.numel()
        count = x.numel() // objects * drawn
        launch(perturb_kernel, triton.cdiv(count, BLOCK_SIZE), objects)(
            x.contiguous(), sigma.contiguous(), c_in.contiguous(), seed.contiguous(),
            step.contiguous(), out, views, *_share(share, drawn), count, x.numel() * noise_samples, *x.shape[2:],
            DRAWN=drawn, MIRRORED=antithetic, DOUBLED=doubled, LAST=channels_last, BLOCK=BLOCK_SIZE,
            **_constants(x, patch),
        )  # fmt: skip


def regress(
    out: Tensor,
    x: Tensor,
    numbers: Numbers,
    answer: Tensor,
    seed: Tensor,
    step: Tensor,
    guidance: Tensor,
    noise_samples: int,
    patch: int,
    share: list[int],
) -> None:
    """Write the two sums of every copy."""
    settled, last = _settled(answer)
    with torch.cuda.device_of(x):
        objects, views = seed.numel(), len(x) // seed.numel()
        launch(regress_kernel, views * noise_samples, objects)(
            x.contiguous(), *(n.contiguous() for n in numbers), settled, guidance, seed.contiguous(),
            step.contiguous(), out, views, share[0], x.numel() * noise_samples, *x.shape[2:],
            COUNT=noise_samples, DOUBLED=_doubled(answer, x, noise_samples),
            LAST=last, BLOCK=REGRESSION_BLOCK, **(_constants(x, patch) | {"num_warps": 8}),
        )  # fmt: skip


def update(
    out: Tensor,
    x: Tensor,
    numbers: Numbers,
    scale: Tensor,
    answer: Tensor,
    seed: Tensor,
    step: Tensor,
    guidance: Tensor,
    fitted: Tensor | None,
    noise_samples: int,
    antithetic: bool,
    coefficient: float,
    patch: int,
    share: list[int],
) -> None:
    """Write the update."""
    settled, last = _settled(answer)
    drawn = _drawn(noise_samples, antithetic)
    with torch.cuda.device_of(x):
        objects, views = seed.numel(), len(x) // seed.numel()
        count = x.numel() // objects
        launch(paas_update_kernel, triton.cdiv(count, BLOCK_SIZE), objects)(
            x.contiguous(), *(n.contiguous() for n in numbers), settled, guidance, seed.contiguous(), step.contiguous(),
            x if fitted is None else fitted, scale.contiguous(), out, views, *_share(share, drawn), count,
            x.numel() * noise_samples,
            *x.shape[2:], coefficient, FITTED=fitted is not None, DRAWN=drawn,
            MIRRORED=antithetic, DOUBLED=_doubled(answer, x, noise_samples), LAST=last, BLOCK=BLOCK_SIZE,
            **_constants(x, patch),
        )  # fmt: skip


def _constants(x: Tensor, patch: int) -> dict[str, Any]:
    return {"CHANNELS": x.shape[1], "PATCH": patch, **OPTIONS, "num_warps": 4}


def _drawn(noise_samples: int, antithetic: bool) -> int:
    """Independent copies of a view: mirrored pairs share one."""
    return noise_samples // 2 if antithetic else noise_samples


def _share(share: list[int], drawn: int) -> tuple[int, int, int]:
    """First view, first draw, and draws in all, which are those that are here where nothing else is said."""
    first_view, first_draw, draws = share
    return first_view, first_draw, draws or drawn


def _doubled(answer: Tensor, x: Tensor, noise_samples: int) -> bool:
    return len(answer) == 2 * noise_samples * len(x)


def _settled(answer: Tensor) -> tuple[Tensor, bool]:
    """The network's answer as the kernels read it, and whether its channels come last."""
    last = answer.is_contiguous(memory_format=torch.channels_last)
    return (answer if last else answer.contiguous()), last
