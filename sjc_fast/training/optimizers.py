"""Everything that is known of an optimizer, in one table: PyTorch's class, the names of its moments, our fused step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.adamax import adam_steps, adamax_steps
from ..scene.field import VoxelField
from ..scene.stack import FieldStack


class OptimizerKind(NamedTuple):
    """One optimizer."""

    torch: Callable[..., torch.optim.Optimizer]
    moments: tuple[str, str]
    """What it keeps a parameter, besides the number of steps, by PyTorch's names."""
    fused_steps: Callable[..., Tensor]
    """The same step of several parameters in one kernel."""


#: By the name of the setting `optimizer.name`.
OPTIMIZERS = {
    "adamax": OptimizerKind(torch.optim.Adamax, ("exp_avg", "exp_inf"), adamax_steps),
    "adam": OptimizerKind(torch.optim.Adam, ("exp_avg", "exp_avg_sq"), adam_steps),
}


def kind_of(optimizer: torch.optim.Optimizer) -> OptimizerKind:
    """The row of an optimizer."""
    return next(kind for kind in OPTIMIZERS.values() if type(optimizer) is kind.torch)


def parameter_groups(field: VoxelField | FieldStack, lr: float, background_lr: float) -> list[dict[str, Any]]:
    """Two groups, as in the paper's code: the background, and everything else (density_scale too) at `lr`."""
    return [
        {"params": [field.density, field.features, field.density_scale], "lr": lr},
        {"params": [field.background], "lr": background_lr},
    ]
