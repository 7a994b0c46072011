"""Several fields of one shape in shared memory, so that one kernel renders or moves all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .field import VoxelField

#: The parameters of a field.
PARAMETERS = ("density", "features", "background", "density_scale")


class FieldStack:
    """S fields, each parameter stacked, [S, …]; a field in it shares the stack's memory.

    Args:
        fields: of one shape, activation and box (of which the first one's is used: nothing is read from the device).
        views: of each that are rendered together; they follow each other.

    Raises:
        ValueError: fields of another activation or density shift.
    """

    def __init__(self, fields: Sequence[VoxelField], views: int) -> None:
        self._first = fields[0]
        self.box = fields[0].box
        self.density, self.features, self.background, self.density_scale = (
            torch.stack([getattr(field, name).detach() for field in fields]) for name in PARAMETERS
        )
        self.asset = torch.arange(len(fields), device=self.box.device).repeat_interleave(views)
        for slot, field in enumerate(fields):
            self.put(slot, field)

    def __len__(self) -> int:
        return len(self.density)

    @property
    def channels(self) -> int:
        return self._first.channels

    @property
    def activation(self) -> str:
        return self._first.activation

    @property
    def density_shift(self) -> float:
        return self._first.density_shift

    def step_size(self, step_ratio: float = 0.5) -> float:
        """As that of a field."""
        return self._first.step_size(step_ratio)

    def put(self, slot: int, field: VoxelField) -> None:
        """Move a field's numbers into a slot, where it then lives."""
        if (field.activation, field.density_shift) != (self.activation, self.density_shift):
            raise ValueError("the fields of a stack have one activation and one density shift")
        for name in PARAMETERS:
            move_in(getattr(self, name)[slot], getattr(field, name))

    def take(self, field: VoxelField) -> None:
        """Let a field live in memory of its own again."""
        for name in PARAMETERS:
            parameter: Tensor = getattr(field, name)
            parameter.data = parameter.detach().clone()


def move_in(place: Tensor, tensor: Tensor) -> None:
    """Copy a tensor's numbers to a place, which becomes its memory."""
    place.copy_(tensor.detach())
    tensor.data = place
