"""Camera paths for videos: once around, the authors' spiral, or keyframes from a JSON file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline, PchipInterpolator

from ..errors import UserError
from ..scene.cameras import Cameras, look_at, orbit

KEYS = ("azimuth", "elevation", "radius", "fov")
LIMITS = {"azimuth": (-1e5, 1e5), "elevation": (-89.9, 89.9), "radius": (1e-3, 1e3), "fov": (1.0, 170.0)}
FORMAT = (
    '{"keyframes": [{"azimuth": 0, "elevation": 20, "radius": 2.5, "fov": 45}, ...], "loop": true}, or '
    '{"c2w": [4 x 4 matrices], "fov": 45}'
)


def spiral(count: int, radius: float, fov: float, rounds: int = 3) -> Cameras:
    """The authors' test path: from above down to the horizon in `rounds` turns, at a growing distance from the axis."""
    ratio = (torch.arange(count, dtype=torch.float64) + 1) / count
    angle = 2 * math.pi * rounds * ratio
    across = (radius * torch.sin(ratio * math.pi / 2)).clamp_min(min(0.5, radius))
    eye = torch.stack([across * angle.cos(), radius * (1 - ratio), across * angle.sin()], dim=-1)
    return Cameras(look_at(eye).float(), torch.full((count,), float(fov)))


def load_path(path: Path, count: int, radius: float, fov: float) -> Cameras:
    """A camera path from a JSON file.

    Either keyframes on spheres around the object, with smooth curves between them (angles in degrees; what a keyframe
    leaves out is as in the one before; with "loop" the last leads back to the first), or one camera-to-world matrix a
    frame (OpenGL axes), taken as it is.

    Args:
        count: frames for keyframes.
        radius, fov: of keyframes that say nothing else.

    Raises:
        UserError: it cannot be read, or is not such a path.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"camera path {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"camera path {path} is not JSON: {error}") from None
    try:
        if "c2w" in tree:
            return _matrices(tree, fov)
        return _keyframes(tree["keyframes"], bool(tree.get("loop", False)), count, {"radius": radius, "fov": fov})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"camera path {path}: {error}; expected {FORMAT}") from None


def _matrices(tree: dict[str, Any], fov: float) -> Cameras:
    c2w = torch.tensor(tree["c2w"], dtype=torch.float32)
    if c2w.dim() != 3 or c2w.shape[1:] != (4, 4) or len(c2w) == 0 or not bool(c2w.isfinite().all()):
        raise ValueError(f"c2w must be a list of 4 x 4 matrices, not {list(c2w.shape)}")
    turn = c2w[:, :3, :3]
    if float((turn @ turn.mT - torch.eye(3)).abs().max()) > 1e-3:
        raise ValueError("the upper left 3 x 3 of every c2w must be a rotation")
    degrees = torch.as_tensor(tree.get("fov", fov), dtype=torch.float32).expand(len(c2w)).clone()
    if not bool(((degrees >= 1) & (degrees <= 170)).all()):
        raise ValueError("fov must be between 1 and 170 degrees")
    return Cameras(c2w, degrees)


def _keyframes(keyframes: list[dict[str, float]], loop: bool, count: int, start: dict[str, float]) -> Cameras:
    if len(keyframes) < 2:
        raise ValueError("at least two keyframes are needed")
    state, rows = {"azimuth": 0.0, "elevation": 20.0} | start, []
    for frame in keyframes:
        if unknown := set(frame) - set(KEYS):
            raise ValueError(f"unknown {', '.join(sorted(unknown))}")
        state = state | {k: float(v) for k, v in frame.items()}
        for key, (low, high) in LIMITS.items():
            if not low <= state[key] <= high:
                raise ValueError(f"{key} {state[key]:g} is not between {low:g} and {high:g}")
        rows.append([state[k] for k in KEYS])
    values = np.array(rows)
    if loop:
        turns = round((values[-1, 0] - values[0, 0]) / 360)  # the shorter way home
        end = values[0] + np.array([360 * turns, 0, 0, 0])
        drift = np.linspace(0, 1, len(values) + 1)[:, None] * (end - values[0])
        wheel = CubicSpline(np.arange(len(values) + 1), np.vstack([values, end]) - drift, bc_type="periodic")
        at = np.arange(count) / count * len(values)
        curve = wheel(at) + at[:, None] / len(values) * (end - values[0])
    else:
        curve = PchipInterpolator(np.arange(len(values)), values)(np.linspace(0, len(values) - 1, count))
    azimuth, elevation, radius, fov = torch.from_numpy(curve).unbind(dim=-1)
    return orbit(azimuth, elevation.clamp(-89.9, 89.9), radius, fov)
