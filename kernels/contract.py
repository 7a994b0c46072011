"""What travels between an operation and its back ends: named tensors, and the list of back ends.

Nothing here imports Triton or builds C++ code: a back end's file is imported when it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from torch import Tensor

#: Back ends by name, and the file of an operation's folder that serves them. "triton" runs on CUDA tensors (on any
#: under TRITON_INTERPRET=1), "cpu" is compiled C++ code for CPU tensors.
BACKENDS = {"triton": "launch", "cpu": "native"}
#: Of a voxel. Kernels take channels in groups of `GROUP`: 16 bytes, one load or one reduction.
MOST_CHANNELS, GROUP = 32, 4


class Scene(NamedTuple):
    """A voxel grid and V cameras, as the march reads them; or G grids of one shape in one box."""

    density: Tensor  # [D, H, W] raw; float32, float16 or bfloat16. With `asset`, [G, D, H, W]
    features: (
        Tensor  # [D, H, W, C] raw, C to 32; a voxel's contiguous, voxels C or the next multiple of 4 apart. Or [G, …]
    )
    background: Tensor  # [C, 4, 4] texture over ray directions, or [G, …]; or [V, C] plain
    log_scale: Tensor  # [] density is softplus(exp(log_scale) r + shift); or [G]
    c2w: Tensor  # [V, 4, 4] camera-to-world, OpenGL axes
    fov: Tensor  # [V] degrees across the width
    box: Tensor  # [2, 3] minimum and maximum corner
    asset: Tensor | None = None  # [V] int64, the grid that each view shows; None: there is one

    def detach(self) -> Scene:
        """The same without gradients."""
        return Scene(*(None if t is None else t.detach() for t in self))  # pyright: ignore[reportArgumentType]


class Quadrature(NamedTuple):
    """How rays are integrated."""

    step: float  # distance between samples, world units
    density_shift: float  # inside the softplus
    sigmoid: bool  # features (and texture) are 2 sigmoid(.) - 1 of the interpolated raw values
    beta: float  # scale inside the emptiness logarithm


class Rendering(NamedTuple):
    """What a renderer returns for V views."""

    features: Tensor  # [V, C, h, w]
    depth: Tensor  # [V, h, w] expected distance along the ray; light that passes through counts as 10
    opacity: Tensor  # [V, h, w] sum of weights, at most 1
    emptiness: Tensor  # [V] mean of log(1 + beta w) over the slots of the view's rays


class Saved(NamedTuple):
    """What the forward pass leaves for the backward pass, besides the scene."""

    features: Tensor  # [V, C, h, w]
    depth: Tensor  # [V, h, w]
    opacity: Tensor  # [V, h, w]
    d_emptiness: Tensor  # [V, h, w] sum over samples of w beta / (1 + beta w)
    stop: Tensor  # [V, h, w] int32, one more than the last sample that was lit
    slots: Tensor  # [V] int64, sample slots of a ray
    state: Tensor  # [1 + groups of channels, V, segments - 1, 4 h w] running sums where segments start


class Upstream(NamedTuple):
    """Gradients of the loss by what was rendered, fields as in `Rendering`; None where there is none."""

    features: Tensor  # [V, C, h, w]
    depth: Tensor | None = None  # [V, h, w]
    opacity: Tensor | None = None  # [V, h, w]
    emptiness: Tensor | None = None  # [V]


class Gradients(NamedTuple):
    """Gradients of the loss by the scene, float32 (or int64, in fixed point); added to. With G grids, [G, …] each."""

    density: Tensor  # [D, H, W]
    features: Tensor  # [D, H, W, C'], C' = padded(C)
    texture: Tensor  # [4, 4, C'] of a texture: [y, x, channel]
    log_scale: Tensor  # []


def padded(channels: int) -> int:
    """Channels in whole groups."""
    return -(-channels // GROUP) * GROUP


def gradient_shapes(grid: Sequence[int], channels: int) -> tuple[tuple[int, ...], ...]:
    """Of `Gradients`, for a grid [D, H, W] or [G, D, H, W]."""
    grids = tuple(grid[:-3])
    return tuple(grid), (*grid, padded(channels)), (*grids, 4, 4, padded(channels)), grids


def state_shape(views: int, channels: int, pixels: int, segments: int) -> tuple[int, ...]:
    """Of `Saved.state`."""
    return 1 + padded(channels) // GROUP, views, segments - 1, 4 * pixels


def choose_backend(x: Tensor, backend: str | None) -> str:
    """The back end that is asked for, else the one that serves the tensor's device.

    Raises:
        ValueError: no such back end.
    """
    if backend is None:
        return "cpu" if x.device.type == "cpu" else "triton"
    if backend not in BACKENDS:
        raise ValueError(f"no back end {backend!r}: choose one of {', '.join(BACKENDS)}")
    return backend


def implementation(operation: str, backend: str) -> ModuleType:
    """The file of an operation's folder that serves a back end.

    Raises:
        ImportError: the back end cannot run here (Triton is not installed), or the operation has none of it.
    """
    return importlib.import_module(f".{operation}.{BACKENDS[backend]}", __package__)
