"""The public `render`: checks its arguments, picks a backend, and passes on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..cameras import Cameras
from ..errors import UserError
from ..field import VoxelField
from .reference import Rendering, render_reference

#: Every renderer by name. All compute the same numbers; `reference` is the specification.
BACKENDS: dict[str, Callable[..., Rendering]] = {"reference": render_reference}


def choose_backend(name: str = "auto") -> str:
    """The backend that `name` stands for on this machine.

    Raises:
        UserError: no such backend.
    """
    if name == "auto":
        return "reference"
    if name not in BACKENDS:
        raise UserError(f"no renderer called {name!r}: choose auto or one of {', '.join(BACKENDS)}")
    return name


def render(
    field: VoxelField,
    cameras: Cameras,
    size: int | tuple[int, int] = 64,
    *,
    backend: str = "auto",
    background: Tensor | None = None,
    beta: float = 10.0,
    step_ratio: float = 0.5,
    slots: Tensor | None = None,
) -> Rendering:
    """Render a voxel field from V cameras, differentiably (volume rendering of the paper, section 4.2).

    Args:
        field: what to render.
        cameras: V cameras on the field's device. They get no gradient.
        size: pixels a side, or (height, width).
        backend: "auto" or a name in `BACKENDS`.
        background: plain background features [V, C], instead of the field's own texture.
        beta: scale inside the emptiness logarithm.
        step_ratio: distance between samples, in mean voxel sizes.
        slots: int64 [V], the sample slots of each view when they are known already (see `rays.sample_slots`).

    Returns:
        `Rendering` of features [V, C, H, W], depth [V, H, W], opacity [V, H, W] and emptiness [V], all with gradients
        to the field's parameters (and to `background`).

    Raises:
        UserError: no such backend.
        ValueError: an impossible size or a background of the wrong shape.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"an image needs at least one pixel a side, not {height} x {width}")
    if background is not None and background.shape != (len(cameras), field.channels):
        raise ValueError(f"background must be [{len(cameras)}, {field.channels}], not {list(background.shape)}")
    draw = BACKENDS[choose_backend(backend)]
    return draw(field, cameras, height, width, background=background, beta=beta, step_ratio=step_ratio, slots=slots)
