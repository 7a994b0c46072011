"""`sjc-fast render`: pictures and videos of a run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tqdm import tqdm

from ..errors import UserError
from ..export.paths import load_path, spiral
from ..export.pictures import contact_sheet, save_picture, take_pictures
from ..export.video import find_ffmpeg, frames_of, save_gif, save_video
from ..runs.folder import RunFolder
from ..runs.run import load_model
from ..runs.settings import pick_device
from ..scene.cameras import Cameras, ring
from ..storage.files import prepare
from . import check_limits, parse

VIDEOS = {".mp4": save_video, ".gif": save_gif}


@dataclass
class RenderOptions:
    """Pictures and videos of a run, at any size."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    output: Path | None = None
    """A .png for views side by side, a .mp4 or .gif for a video; default views.png in the run folder."""
    size: int = 256
    """Pixels across one view."""
    height: int | None = None
    """Pixels down one view; default as across."""
    supersample: int = 1
    """Rays a pixel and axis; those of latent models are averaged before they are decoded."""
    depth: bool | None = None
    """With depth: under the views of a picture, beside those of a video; default in pictures."""
    views: int = 8
    """Views around the object in a picture."""
    elevation: float = 20.0
    """Degrees above the horizon, of views and turntables."""
    path: str = "turntable"
    """Of a video: "turntable", "spiral" (the authors': three rounds from above down to the horizon), or a JSON file."""
    frames: int = 120
    """Frames of a video."""
    fps: int = 24
    device: str = "auto"
    backend: str = "auto"


def main(arguments: list[str]) -> None:
    """Render and say where."""
    options = parse(RenderOptions, arguments, "render")
    output = options.output or RunFolder(options.run).views
    _check(options, output)
    config, field = RunFolder(options.run).load()
    cameras = _cameras(options, config.cameras.lens, output.suffix in VIDEOS)
    prepare(output)
    if output.suffix in VIDEOS:
        find_ffmpeg()  # before the work
    device = pick_device(options.device)
    model, field, cameras = load_model(config, device, additions=False), field.to(device), cameras.to(device)
    look = {"size": (options.height or options.size, options.size), "background": config.field.backdrop}
    look |= {"backend": options.backend, "rays": options.supersample}
    if output.suffix in VIDEOS:
        frames = frames_of(field, model, cameras, depth=bool(options.depth), **look)
        VIDEOS[output.suffix](_counted(frames, len(cameras)), output, options.fps)
    else:
        views = [take_pictures(field, model, cameras[i : i + 1], **look) for i in _counted(range(len(cameras)))]
        rgb, depth = (torch.cat(pictures) for pictures in zip(*views, strict=True))
        shown = options.depth is None or options.depth
        save_picture(contact_sheet(rgb, depth) if shown else torch.cat(list(rgb), dim=-1), output)
    print(output)


def _counted(frames: Any, total: int | None = None) -> tqdm:
    """Progress on stderr, for people."""
    return tqdm(frames, total=total, unit="frame", leave=False, disable=not sys.stderr.isatty())


def _cameras(options: RenderOptions, lens: tuple[float, float], video: bool) -> Cameras:
    if not video:
        return ring(options.views, options.elevation, *lens)
    if options.path == "turntable":
        return ring(options.frames, options.elevation, *lens)
    if options.path == "spiral":
        return spiral(options.frames, *lens)
    return load_path(Path(options.path), options.frames, *lens)


def _check(options: RenderOptions, output: Path) -> None:
    if output.suffix not in (".png", *VIDEOS):
        raise UserError(f"--output {output}: give a name that ends in .png (views), .mp4 or .gif (video)")
    if not -89 <= options.elevation <= 89:
        raise UserError(f"--elevation {options.elevation:g}: between -89 and 89 degrees")
    limits = {"size": (8, 4096), "height": (8, 4096), "supersample": (1, 8), "fps": (1, 240)}
    check_limits(options, limits | {"views": (1, 1000), "frames": (1, 10**5)})
