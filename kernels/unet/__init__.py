"""`group_norm`, `layer_norm`, `geglu`: what a UNet does between its products and convolutions, each in one kernel.

Feature maps are [B, h, w, C], which is PyTorch's channels-last memory: nothing is copied to normalize them. Statistics
and arithmetic are float32, whatever is stored. With s = x + residual + bias + shift, and skip's channels behind it:

    group_norm   (s - mean) / sqrt(variance + epsilon) weight + offset, over each image's groups of channels
                 (arXiv 1803.08494), and silu(y) = y / (1 + exp(-y)) after it
    layer_norm   the same over each row's channels (arXiv 1607.06450)
    geglu        a b Phi(b) of a row's halves a and b, Phi the normal distribution function (arXiv 2002.05202)

The sums that surround a normalization belong to it, since it reads and writes the same numbers anyway: what a
convolution leaves without its bias, the embedding of time, a residual connection, the channels of a skip connection.
Each kernel is for inference: there are no gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import implementation


@torch.no_grad()
def group_norm(
    x: Tensor,  # [B, h, w, W], contiguous; overwritten with the sum where `keep`
    weight: Tensor,  # [C]
    offset: Tensor,  # [C]
    groups: int,
    epsilon: float,
    *,
    residual: Tensor | None = None,  # like x
    bias: Tensor | None = None,  # [W]
    shift: Tensor | None = None,  # [B, W]
    skip: Tensor | None = None,  # [B, h, w, C - W]
    silu: bool = False,
    keep: bool = False,
) -> tuple[Tensor, Tensor]:
    """The normalized sum [B, h, w, C], and with `keep` the sum itself (else x).

    The sum is written over x where that has room for it, without `skip`.

    Raises:
        ValueError: shapes, types or layouts that do not fit.
    """
    channels = x.shape[-1] + (0 if skip is None else skip.shape[-1])
    vectors = [(weight, (channels,)), (offset, (channels,)), (bias, x.shape[-1:]), (shift, (len(x), x.shape[-1]))]
    wide = [(residual, x.shape), (skip, (*x.shape[:-1], channels - x.shape[-1]))]
    _check(x, [(x, x.shape), *vectors, *wide])
    if channels % groups:
        raise ValueError(f"{channels} channels do not make {groups} groups")
    out = x.new_empty(*x.shape[:-1], channels)
    summed = any(term is not None for term in (residual, bias, shift, skip))
    total = x if skip is None else torch.empty_like(out)
    if x.numel():
        norm = (weight, offset, groups, epsilon)
        implementation("unet", "triton").group_norm(
            out, total if keep and summed else None, x, norm, residual, bias, shift, skip, silu
        )
    return out, total if keep else x


@torch.no_grad()
def layer_norm(
    x: Tensor,  # [..., C], contiguous
    weight: Tensor,  # [C]
    offset: Tensor,  # [C]
    epsilon: float,
    *,
    ahead: Tensor | None = None,  # [C]
) -> Tensor:
    """The normalized rows of x. `ahead` is added to x itself: the bias of what will be added there next.

    Raises:
        ValueError: shapes, types or layouts that do not fit.
    """
    _check(x, [(x, x.shape), *((vector, x.shape[-1:]) for vector in (weight, offset, ahead))])
    out = torch.empty_like(x)
    if x.numel():
        implementation("unet", "triton").layer_norm(out, x, weight, offset, epsilon, ahead)
    return out


@torch.no_grad()
def geglu(x: Tensor) -> Tensor:
    """``a gelu(b)`` of the halves of rows [..., 2 C], contiguous: [..., C].

    Raises:
        ValueError: rows that have no halves, or another layout.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"rows of {x.shape[-1]} numbers have no halves")
    _check(x, [(x, x.shape)])
    out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    if out.numel():
        implementation("unet", "triton").geglu(out, x)
    return out


def _check(x: Tensor, expected: list[tuple[Tensor | None, torch.Size | tuple[int, ...]]]) -> None:
    for tensor, shape in expected:
        if tensor is None:
            continue
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"a tensor is {list(tensor.shape)} where {list(shape)} is needed")
        if tensor.dtype != x.dtype or not tensor.is_contiguous():
            raise ValueError("the tensors must be contiguous, and of one type")
        if tensor.numel() >= 2**31 - 2**16:  # with room for a block that ends beyond it
            raise ValueError("the kernels count in 32 bits")
