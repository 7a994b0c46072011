"""Checkpoints: everything a run needs to go on, in one safetensors file, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..storage.files import atomic
from ..storage.tensors import read_tensors, write_tensors
from .optimizers import kind_of

FORMAT = "sjc-fast checkpoint 1"


class Checkpoint(NamedTuple):
    """A run between two steps."""

    step: int  # steps taken so far: the next row of the schedule
    digest: str  # fingerprint of the configuration that the run was started with
    field: dict[str, Tensor]
    optimizer: dict[str, Tensor]  # "<parameter index>.<state name>"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, one entry a tensor."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {f"{i}.{k}": v for i, p in enumerate(parameters) for k, v in optimizer.state.get(p, {}).items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned.

    Raises:
        ValueError: the tensors are not this optimizer's.
    """
    names = ("step", *kind_of(optimizer).moments)
    for i, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        state = {k: tensors.pop(f"{i}.{k}") for k in names if f"{i}.{k}" in tensors}
        if not state and i > 0:
            continue  # a background that is not used is never moved; the density, the first, always is
        shapes = [tuple(v.shape) for k, v in state.items() if k != "step"]
        if set(state) != set(names) or shapes != [tuple(parameter.shape)] * (len(names) - 1):
            raise ValueError("the state of the optimizer is incomplete")
        if any(v.dtype != torch.float32 or not bool(v.isfinite().all()) for v in state.values()):
            raise ValueError("the state of the optimizer holds something other than finite float32 numbers")
        optimizer.state[parameter] = {k: v.to("cpu" if k == "step" else parameter.device) for k, v in state.items()}
    if tensors:
        raise ValueError("the state of the optimizer holds unknown tensors")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    tensors = {f"field.{k}": v for k, v in checkpoint.field.items()}
    tensors |= {f"optimizer.{k}": v for k, v in checkpoint.optimizer.items()}
    metadata = {"format": FORMAT, "step": str(checkpoint.step), "digest": checkpoint.digest}
    with atomic(path, "the checkpoint") as partial:
        write_tensors(tensors, partial, metadata)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"no checkpoint in {path.parent}: there is nothing to resume")
    try:
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != FORMAT:
            raise UserError(f"{path} is not a checkpoint of this version")
        parts = (_below(tensors, "field."), _below(tensors, "optimizer."))
        return Checkpoint(int(metadata["step"]), metadata["digest"], *parts)
    except (ValueError, KeyError) as error:
        raise UserError(f"the checkpoint {path} is damaged: {' '.join(str(error).split())}") from None


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
