"""The authors' numbers (tests/data/*.npz, computed with their published code) as fields and cameras of ours."""

from pathlib import Path

import numpy as np
import torch

from sjc_fast.scene.cameras import Cameras
from sjc_fast.scene.field import VoxelField

DATA = Path(__file__).parent / "data"


def load(name: str) -> dict[str, torch.Tensor]:
    with np.load(DATA / f"{name}.npz") as file:
        return {k: torch.as_tensor(v) for k, v in file.items() if v.dtype.kind != "U"}


def strings(name: str, key: str) -> list[str]:
    with np.load(DATA / f"{name}.npz") as file:
        return file[key].tolist()


def field_of(data: dict, prefix: str = "", box: str = "aabb") -> VoxelField:
    """A field from the authors' arrays [1, C, Z, Y, X]."""
    tensors = {
        "density": data[f"{prefix}density"][0, 0],
        "features": data[f"{prefix}color"][0].permute(1, 2, 3, 0).contiguous(),
        "background": data[f"{prefix}bg"][0],
        "density_scale": data[f"{prefix}d_scale"],
        "box": data[box],
    }
    return VoxelField.from_tensors(tensors, "raw", float(data["density_shift"]))


def camera_of(c2w: torch.Tensor, intrinsics: torch.Tensor, width: int) -> Cameras:
    """One camera from the authors' pose [4, 4] and intrinsics [3, 3]."""
    fov = torch.rad2deg(2 * torch.atan(width / 2 / intrinsics[0, 0]))
    return Cameras(c2w[None].float(), fov[None].float())
