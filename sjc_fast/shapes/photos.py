"""Posed photographs of a procedural object: ``python -m sjc_fast.shapes.photos FOLDER``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from ..scene.cameras import orbit
from ..scene.photos import Photos, save_photos
from .dataset import FOV, RADIUS, render_views
from .prompts import ParsedPrompt


@dataclass
class PhotoOptions:
    """What is photographed, and how often."""

    folder: Annotated[Path, tyro.conf.Positional]
    name: str = "mushroom"
    color: Annotated[str, tyro.conf.arg(aliases=["--colour"])] = "red"
    train: int = 40
    test: int = 8
    size: int = 96


def photograph(name: str, color: str, count: int, size: int, seed: int) -> Photos:
    """RGBA photographs from random places on the sphere, from 30 degrees below the horizon upwards."""
    generator = torch.Generator().manual_seed(seed)
    azimuth = 360 * torch.rand(count, generator=generator)
    height = -0.5 + 1.45 * torch.rand(count, generator=generator)
    cameras = orbit(azimuth, torch.rad2deg(torch.asin(height)), RADIUS, FOV)
    layers = render_views(name, cameras, size, supersample=4)
    lit = layers.lit(*ParsedPrompt(name, color).colors())
    return Photos(cameras, torch.cat([lit / layers.coverage.clamp_min(1e-6), layers.coverage], dim=1))


def main(options: PhotoOptions) -> None:
    """Take and write them."""
    for seed, (part, count) in enumerate((("train", options.train), ("test", options.test))):
        save_photos(photograph(options.name, options.color, count, options.size, seed), options.folder, part)


if __name__ == "__main__":
    main(tyro.cli(PhotoOptions))
