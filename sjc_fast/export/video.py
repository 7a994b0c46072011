"""Videos of a field."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import imageio.v2 as iio
import imageio_ffmpeg
import torch
from torch import Tensor

from ..errors import MissingTool, UserError
from ..scene.cameras import Cameras
from ..scene.field import VoxelField
from ..scores.protocol import ScoreModel
from ..storage.files import atomic
from .pictures import gray, take_pictures, to_bytes


def frames_of(
    field: VoxelField,
    model: ScoreModel,
    cameras: Cameras,
    size: int | tuple[int, int],
    background: tuple[float, float, float] | None,
    backend: str = "auto",
    *,
    rays: int = 1,
    depth: bool = False,
) -> Iterator[Tensor]:
    """One RGB picture [3, height, width] a camera, made as it is asked for; see `take_pictures`.

    Args:
        depth: with the depth on the right, [3, height, 2 width].
    """
    for i in range(len(cameras)):
        rgb, near = take_pictures(field, model, cameras[i : i + 1], size, background, backend, rays=rays)
        yield torch.cat([rgb, gray(near, rgb)], dim=-1)[0] if depth else rgb[0]


@functools.cache
def find_ffmpeg() -> str:
    """The ffmpeg that imageio found.

    Raises:
        MissingTool: there is none that runs.
    """
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        subprocess.run([program, "-version"], check=True, capture_output=True)
    except (RuntimeError, OSError, subprocess.CalledProcessError):
        raise MissingTool(
            "there is no working ffmpeg: pip install imageio-ffmpeg, or name one in IMAGEIO_FFMPEG_EXE"
        ) from None
    return program


def save_video(frames: Iterable[Tensor], path: Path, fps: int, quality: float = 8) -> None:
    """Write RGB frames [3, H, W] in [0, 1] as an H.264 MP4, atomically, holding one frame at a time.

    Odd sides lose a pixel row or column: H.264 needs even ones.

    Args:
        quality: up to 10.

    Raises:
        UserError: the file cannot be written; `MissingTool` without ffmpeg.
    """
    find_ffmpeg()
    options = {"codec": "libx264", "quality": quality, "macro_block_size": 2, "pixelformat": "yuv420p"}
    options["ffmpeg_log_level"] = "quiet"  # its failures come back as exceptions
    # `closing`: the writer's own context leaves ffmpeg running, and its file growing, after an error.
    with atomic(path, "the video") as partial, closing(iio.get_writer(partial, fps=fps, **options)) as writer:
        for frame in frames:
            writer.append_data(to_bytes(even(frame)))


def save_gif(frames: Iterable[Tensor], path: Path, fps: int) -> None:
    """Write RGB frames [3, H, W] in [0, 1] as an endless GIF, atomically, holding one frame at a time.

    By way of a video: a palette for all frames is chosen once all are known.

    Raises:
        UserError: as `save_video`.
    """
    program = find_ffmpeg()
    with tempfile.TemporaryDirectory() as folder:
        video, palette = Path(folder, "video.mp4"), Path(folder, "palette.png")
        save_video(frames, video, fps, quality=10)
        with atomic(path, "the GIF") as partial:
            for inputs, graph, target in (
                (["-i", video], "palettegen=reserve_transparent=0", palette),
                (["-i", video, "-i", palette], "paletteuse=dither=sierra2_4a:diff_mode=rectangle", partial),
            ):
                command = [program, "-y", "-loglevel", "error", *inputs, "-lavfi", graph, target]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise UserError(f"cannot write the GIF {path}: {' '.join(done.stderr.split())[-300:]}")


def even(frame: Tensor) -> Tensor:
    """The frame without its last row or column where their number is odd."""
    height, width = frame.shape[-2:]
    return torch.narrow(torch.narrow(frame, -2, 0, height // 2 * 2), -1, 0, width // 2 * 2)
