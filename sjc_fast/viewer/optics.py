"""A browser's camera and ours: other axes, another field of view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import viser.transforms as transforms
from torch import Tensor

from ..scene.cameras import Cameras

#: From OpenCV's axes (y down, z forward), which viser uses, to OpenGL's (y up, z backward), which we use, and back.
FLIP = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Pose:
    """Where a browser looks from."""

    wxyz: tuple[float, ...]
    """Rotation from camera (OpenCV axes) to world, a quaternion."""
    position: tuple[float, ...]
    fov: float
    """Vertical, radians."""
    aspect: float
    """Width over height of the window."""

    @classmethod
    def of(cls, camera: Any) -> Pose:
        """That of a viser camera, as it is now."""
        floats = lambda values: tuple(float(v) for v in values)  # noqa: E731
        return cls(floats(camera.wxyz), floats(camera.position), float(camera.fov), float(camera.aspect))

    def camera(self, side: int) -> tuple[Cameras, tuple[int, int]]:
        """One of our cameras, and the height and width of a picture whose longer side has `side` pixels."""
        c2w = np.eye(4)
        c2w[:3, :3] = transforms.SO3(np.array(self.wxyz)).normalize().as_matrix() @ FLIP
        c2w[:3, 3] = self.position
        height, width = (max(8, round(side * scale)) for scale in (min(1, 1 / self.aspect), min(1, self.aspect)))
        across = 2 * np.degrees(np.arctan(np.tan(self.fov / 2) * width / height))
        return Cameras(torch.from_numpy(c2w[None]).float(), torch.tensor([min(float(across), 170.0)])), (height, width)


def viser_pose(c2w: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Quaternion and position, for viser, of a camera-to-world matrix of ours, [4, 4]."""
    return transforms.SO3.from_matrix(c2w[:3, :3].double().numpy() @ FLIP).wxyz, c2w[:3, 3].numpy()
