"""The fused renderers, Triton's and the compiled CPU one: the march of `sjc_fast.kernels` on a field and cameras."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from ..kernels.bricks import brick_maximum
from ..kernels.contract import Rendering, Scene
from ..kernels.march import march, march_skip
from ..scene.cameras import Cameras
from ..scene.field import VoxelField
from ..scene.stack import FieldStack

#: A sample thinner than this (optical thickness) is left out where empty space may be skipped: over all the samples of
#: a ray, less than one of 256 gray levels.
SKIP_BELOW = 1e-5


def obstacle(name: str, device: torch.device | str) -> str | None:
    """Why a renderer cannot run on a device; None if it can (Triton's anywhere under TRITON_INTERPRET=1, slowly).

    To know it of the compiled one, that is built, if it has never been.
    """
    if name == "cpu":
        from ..kernels import native

        return native.problem() if torch.device(device).type == "cpu" else "it renders on the CPU"
    if name == "reference":
        return None
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it runs on Linux with an NVIDIA GPU)"
    if torch.device(device).type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "it needs a CUDA device"
    return None


def scene_of(field: VoxelField | FieldStack, cameras: Cameras, background: Tensor | None = None) -> Scene:
    """A field (or several) and cameras as the tensors that the march takes; `background` [V, C] replaces a texture."""
    return Scene(
        field.density,
        field.features,
        field.background if background is None else background,
        field.density_scale,
        cameras.c2w,
        cameras.fov,
        field.box,
        None if isinstance(field, VoxelField) else field.asset,
    )


def march_settings(
    field: VoxelField | FieldStack, backend: str, beta: float, step_ratio: float = 0.5
) -> dict[str, Any]:
    """What the march is told about a field."""
    return {
        "backend": backend,
        "step": field.step_size(step_ratio),
        "density_shift": field.density_shift,
        "sigmoid": field.activation == "sigmoid",
        "beta": beta,
    }


def render_fused(
    field: VoxelField,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    backend: str,
    background: Tensor | None,
    beta: float,
    step_ratio: float,
    slots: Tensor | None,
    skip_empty: bool,
) -> Rendering:
    """Render views in one launch; see `sjc_fast.render` for the arguments.

    Gradients are the same bits from run to run, with Triton under ``torch.use_deterministic_algorithms(True)``.
    """
    scene = scene_of(field, cameras, background)
    settings = {"height": height, "width": width, **march_settings(field, backend, beta, step_ratio)}
    if skip_empty:
        bricks = brick_maximum(field.density.detach(), backend=backend)
        return march_skip(scene, bricks, **settings, skip_below=SKIP_BELOW)
    deterministic = torch.are_deterministic_algorithms_enabled()
    return march(scene, **settings, slots=slots, deterministic=deterministic)
