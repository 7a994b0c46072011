"""Videos of a field."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import imageio.v2 as iio
import torch
from torch import Tensor

from ..cameras import Cameras
from ..field import VoxelField
from ..files import atomic
from ..scores.protocol import ScoreModel
from .pictures import take_pictures, to_bytes


def frames_of(
    field: VoxelField,
    model: ScoreModel,
    cameras: Cameras,
    size: int,
    background: tuple[float, float, float] | None,
    backend: str = "auto",
) -> Iterable[Tensor]:
    """One RGB picture [3, size, size] a camera, made as it is asked for."""
    for i in range(len(cameras)):
        yield take_pictures(field, model, cameras[i : i + 1], size, background, backend)[0][0]


def save_video(frames: Iterable[Tensor], path: Path, fps: int) -> None:
    """Write RGB frames [3, H, W] in [0, 1] as an H.264 MP4, atomically, holding one frame at a time.

    Odd sides lose a pixel row or column: H.264 needs even ones.

    Raises:
        UserError: the file cannot be written.
    """
    options = {"codec": "libx264", "quality": 8, "macro_block_size": 2, "pixelformat": "yuv420p"}
    options["ffmpeg_log_level"] = "quiet"  # its failures come back as exceptions
    # `closing`: the writer's own context leaves ffmpeg running, and its file growing, after an error.
    with atomic(path, "the video") as partial, closing(iio.get_writer(partial, fps=fps, **options)) as writer:
        for frame in frames:
            writer.append_data(to_bytes(even(frame)))


def even(frame: Tensor) -> Tensor:
    """The frame without its last row or column where their number is odd."""
    height, width = frame.shape[-2:]
    return torch.narrow(torch.narrow(frame, -2, 0, height // 2 * 2), -1, 0, width // 2 * 2)
