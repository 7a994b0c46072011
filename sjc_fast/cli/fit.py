"""`sjc-fast fit`: posed photographs become a field."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tqdm import tqdm

from ..errors import UserError
from ..export.pictures import save_picture
from ..runs.console import say
from ..runs.folder import RunFolder
from ..runs.run import check_early
from ..runs.settings import pick_device
from ..scene.photos import Photos, load_photos
from ..scores.load import EMBEDDED
from ..storage.files import prepare
from ..training.config import TrainConfig, merge, save_yaml
from ..training.fit import FitSettings, fit_steps, measure
from . import check_limits, parse


@dataclass
class FitOptions(FitSettings):
    """Photographs with known cameras (transforms.json, Blender's convention; RGBA) become a field."""

    data: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder with transforms_train.json and transforms_test.json, or transforms.json."""
    output: Path | None = None
    """New run folder; default runs/<name of the data>. `render`, `view` and `export` open it."""
    size: int = 128
    """Pixels across; larger photographs are shrunk to it."""
    device: str = "auto"


def main(arguments: list[str]) -> None:
    """Fit, measure on the photographs that were held out, and write."""
    options = parse(FitOptions, arguments, "fit")
    if options.data is None:
        raise UserError("fit needs the folder of the photographs")
    check_limits(options, {"steps": (1, 10**6), "views": (1, 64), "size": (8, 4096), "seed": (0, 2**63 - 1)})
    if not options.resolutions or not all(4 <= r <= 512 for r in options.resolutions):
        raise UserError("--resolutions: give one or more from 4 to 512")
    check_limits(options, {"bound": (1e-6, 1e6), "lr": (1e-9, 1e3)})
    device = pick_device(options.device)
    train, test = load_photos(options.data, options.size)
    output = options.output or Path("runs") / options.data.resolve().name
    files = RunFolder(output)
    config = _config(options, test)
    check_early(replace(config, output=output))
    prepare(files.field)
    settings = FitSettings(**{f.name: getattr(options, f.name) for f in fields(FitSettings)})
    started = time.monotonic()
    total = len(settings.resolutions) * settings.steps
    for field in tqdm(fit_steps(train, settings, device), total=total, unit="step", disable=None):  # noqa: B007
        pass
    psnr, views = measure(field, test, settings.backend)
    if not bool(psnr.isfinite().all()):
        raise UserError(f"the fit came to no numbers: lower --lr {options.lr:g}")
    field.save(files.field)
    save_yaml(config, files.config)
    shown = [torch.cat(list(x[:8]), dim=-1) for x in (views, test.over(torch.ones(3)))]
    save_picture(torch.cat(shown, dim=-2), files.held_out)
    worst = f"{float(psnr.min()):.1f} at worst"
    say(f"{len(test.pictures)} held-out photographs: PSNR {float(psnr.mean()):.1f} dB ({worst})")
    say(f"done in {time.monotonic() - started:.0f} s: {output}")


def _config(options: FitOptions, photos: Photos) -> TrainConfig:
    """What the other commands need to know of the field: where it is looked at from, and over what."""
    assert options.data is not None  # which `main` refuses
    radius = float(photos.cameras.c2w[:, :3, 3].norm(dim=-1).mean())
    fov = float(photos.cameras.fov[0])
    changes = {
        "prompt": f"photographs in {options.data.resolve().name}",
        "seed": options.seed,
        "field": {"background": "plain", "background_color": [1.0, 1.0, 1.0]},
        "cameras": {"radius": radius, "fov": [fov, fov]},
    }
    return merge(TrainConfig(model=EMBEDDED), changes, "fit")
