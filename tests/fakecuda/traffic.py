"""What PyTorch's operators move in memory, by the shapes of what they are given and return."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .device import counts
from .kinds import by_kind

#: Kinds of nodes that compute what a network is made of; all others help them.
NORMAL = ("group norm", "layer norm", "silu", "gelu")


class Traffic(TorchDispatchMode):
    """Bytes that PyTorch's helpers read and write: copies, concatenations, sums and products number by number.

    An operator counts as a whole, so that what is launched inside of another (the sum with a convolution's bias, the
    copy before a group norm) is left out.
    """

    helpers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        counts()
        out = function(*args, **(kwargs or {}))
        launched = set(by_kind(counts().launches))
        if launched and not any(is_work(kind) or kind in NORMAL for kind in launched):
            given, made = (
                [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)] for tree in ((args, kwargs), out)
            )
            self.helpers += sum(size_of(x) for x in [*given, *made])
        return out


def is_work(kind: str) -> bool:
    """Whether nodes of a kind are what a network is there for."""
    return kind in ("convolution", "matrix product") or kind.startswith("attention")


def size_of(x: torch.Tensor) -> int:
    """Bytes that a tensor has in memory."""
    apart = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride]
    return math.prod(apart) * x.element_size()
