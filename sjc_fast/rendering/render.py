"""The public `render`: checks its arguments, picks a backend, and passes on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import UserError
from ..kernels import contract
from ..kernels.contract import Rendering
from ..scene.cameras import Cameras
from ..scene.field import VoxelField
from .fused import obstacle, render_fused
from .reference import render_reference

#: Every renderer by name. All compute the same numbers; `reference` is the specification.
BACKENDS: dict[str, Callable[..., Rendering]] = {
    "reference": render_reference,
    **{name: functools.partial(render_fused, backend=name) for name in contract.BACKENDS},
}
LOG = logging.getLogger(__name__)


def choose_backend(name: str = "auto", device: torch.device | str = "cpu") -> str:
    """The backend that `name` stands for on a device: auto is triton on CUDA devices and cpu on the CPU, if they run
    there, else reference (which it says, once).

    Raises:
        UserError: no such backend, or not on this device.
    """
    if name == "auto":
        fast = "triton" if torch.device(device).type == "cuda" else "cpu"
        if problem := obstacle(fast, device):
            _say_once(f"the {fast} renderer cannot run here, so the slow reference renderer is used: {problem}")
            return "reference"
        return fast
    if name not in BACKENDS:
        raise UserError(f"no renderer called {name!r}: choose auto or one of {', '.join(BACKENDS)}")
    if problem := obstacle(name, device):
        raise UserError(f"the {name} renderer cannot run here: {problem}; choose auto or reference")
    return name


@functools.cache
def _say_once(message: str) -> None:
    LOG.warning(message)


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
    skip_empty: bool = False,
) -> Rendering:
    """Render a voxel field from V cameras, differentiably (volume rendering of the paper, section 4.2).

    Args:
        field: what to render.
        cameras: V cameras on the field's device. They get no gradient.
        size: pixels a side, or (height, width).
        backend: "auto" or a name in `BACKENDS`; auto gives a field in float64 to the reference.
        background: plain background features [V, C], instead of the field's own texture.
        beta: scale inside the emptiness logarithm.
        step_ratio: distance between samples, in mean voxel sizes.
        slots: int64 [V], the sample slots of each view when they are known already (see `rays.sample_slots`).
        skip_empty: for pictures, not for training: no gradients, and a backend may leap over nearly empty space (which
            takes less than one of 256 gray levels from a pixel's opacity); the reference renders all of it.

    Returns:
        `Rendering` of features [V, C, H, W], depth [V, H, W], opacity [V, H, W] and emptiness [V], all with gradients
        to the field's parameters (and to `background`).

    Raises:
        UserError: no such backend, or not on this device.
        ValueError: an impossible size, step_ratio, or a background of the wrong shape.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"an image needs at least one pixel a side, not {height} x {width}")
    if not 0 < step_ratio < float("inf"):
        raise ValueError(f"step_ratio must be positive, not {step_ratio}")
    if background is not None and background.shape != (len(cameras), field.channels):
        raise ValueError(f"background must be [{len(cameras)}, {field.channels}], not {list(background.shape)}")
    if backend == "auto" and field.density.dtype == torch.float64:
        backend = "reference"
    draw = BACKENDS[choose_backend(backend, field.density.device)]
    options = {"background": background, "beta": beta, "step_ratio": step_ratio}
    with torch.set_grad_enabled(torch.is_grad_enabled() and not skip_empty):
        return draw(field, cameras, height, width, **options, slots=slots, skip_empty=skip_empty)
