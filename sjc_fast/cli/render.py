"""`sjc-fast render`: pictures and turntables of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from ..errors import UserError
from ..export.pictures import contact_sheet, save_picture, take_pictures
from ..export.video import frames_of, save_video
from ..run import display_background, open_run, orbit_cameras
from ..scores.load import load_score_model
from ..settings import pick_device
from . import parse


@dataclass
class RenderOptions:
    """Pictures of a run, at any size."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    output: Path | None = None
    """A .png for views side by side, a .mp4 for a turntable; default views.png in the run folder."""
    size: int = 256
    """Pixels a side of one view."""
    views: int = 8
    """Views around the object in a picture."""
    elevation: float = 20.0
    """Degrees above the horizon."""
    frames: int = 120
    """Frames of a turntable."""
    fps: int = 24
    depth: bool = True
    """Show depth under the views."""
    device: str = "auto"
    backend: str = "auto"


def main(arguments: list[str]) -> None:
    """Render and say where."""
    options = parse(RenderOptions, arguments, "render")
    output = options.output or options.run / "views.png"
    _check(options, output)
    config, field = open_run(options.run)
    device = pick_device(options.device)
    model, field = load_score_model(config.model, device), field.to(device)
    count = options.views if output.suffix == ".png" else options.frames
    cameras = orbit_cameras(config, count, options.elevation).to(device)
    background = display_background(config)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".png":
        rgb, depth = zip(
            *(
                take_pictures(field, model, cameras[i : i + 1], options.size, background, options.backend)
                for i in range(count)
            ),
            strict=True,
        )
        rgb = torch.cat(rgb)
        picture = contact_sheet(rgb, torch.cat(depth)) if options.depth else torch.cat(list(rgb), dim=-1)
        save_picture(picture, output)
    else:
        save_video(frames_of(field, model, cameras, options.size, background, options.backend), output, options.fps)
    print(output)


def _check(options: RenderOptions, output: Path) -> None:
    if output.suffix not in (".png", ".mp4"):
        raise UserError(f"--output {output}: give a name that ends in .png (views) or .mp4 (turntable)")
    if not 8 <= options.size <= 4096:
        raise UserError(f"--size {options.size}: between 8 and 4096 pixels")
    if not -89 <= options.elevation <= 89:
        raise UserError(f"--elevation {options.elevation:g}: between -89 and 89 degrees")
    for name in ("views", "frames", "fps"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: it must be at least 1")
