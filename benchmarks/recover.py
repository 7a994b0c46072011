"""Recover a known scene from the exact score of its own pictures: renderer, chain rule, PAAS and trainer, no network.

The score model is a `MixtureModel` with one exact picture for every training camera; the prompt's direction words
select it. Quality is measured on cameras that training never saw. ``python -m benchmarks.recover`` is the full version.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from sjc_fast.rendering import render
from sjc_fast.scene.cameras import orbit, ring
from sjc_fast.scene.directions import Direction
from sjc_fast.scores import MixtureModel
from sjc_fast.shapes.dataset import FOV, RADIUS, render_views
from sjc_fast.shapes.prompts import ParsedPrompt
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.trainer import Trainer

from .report import save

BACKGROUND = (0.5, 0.5, 0.5)


def training_directions(around: int, elevations: tuple[float, ...]) -> tuple[Direction, ...]:
    """`around` x `elevations` viewpoints, each a patch of no size with a name of its own."""
    return tuple(
        Direction(f"view {i} {e:g} of", (360 / around * i,) * 2, (e, e)) for e in elevations for i in range(around)
    )


def exact_pictures(name: str, color: str, cameras: Any, size: int) -> torch.Tensor:
    """Exact pictures of a scene over the known background, [V, 3, size, size] in [-1, 1]."""
    colors = ParsedPrompt(name, color).colors()
    return render_views(name, cameras, size).paint(*colors, torch.tensor(BACKGROUND)) * 2 - 1


def recover(
    name: str = "mushroom",
    color: str = "red",
    *,
    resolution: int = 64,
    size: int = 64,
    around: int = 16,
    elevations: tuple[float, ...] = (-20.0, 10.0, 40.0, 70.0),
    steps: int = 600,
    lr: float = 0.2,
    seed: int = 0,
) -> dict[str, Any]:
    """Train on the exact score and measure PSNR (dB, peak 1) at 8 unseen cameras."""
    directions = training_directions(around, elevations)
    azimuth, elevation = (torch.tensor([getattr(d, k)[0] for d in directions]) for k in ("azimuth", "elevation"))
    pictures = exact_pictures(name, color, orbit(azimuth, elevation, RADIUS, FOV), size)
    words = [f"{d.words} it" for d in directions]
    model = MixtureModel(pictures, select=lambda prompt: torch.tensor([w == prompt for w in words]))
    settings = {
        "prompt": "it",
        "model": "mixture",
        "steps": steps,
        "seed": seed,
        "guidance": 1.0,
        "noise_samples": 1,
        "cameras": {"sampling": "directions", "spread": 0.0, "radius": RADIUS, "fov": [FOV, FOV]},
        "field": {
            "resolution": resolution,
            "feature_std": 0.1,
            "background": "plain",
            "background_color": list(BACKGROUND),
        },
        "score": {"weighting": "sigma2", "sigma": {"mode": "random", "drop_largest": 0, "drop_smallest": 0}},
        "losses": {"emptiness_weight": 0.0},
        "optimizer": {"name": "adam", "lr": lr, "decay": "cosine", "final_lr": 0.02},
    }
    config = merge(TrainConfig(), settings)
    config.cameras.directions = directions
    trainer = Trainer(config, model)
    started = time.monotonic()
    for _ in trainer.remaining():
        pass
    seconds = time.monotonic() - started

    unseen = ring(8, 25.0, RADIUS, FOV, start=180 / around)
    truth = exact_pictures(name, color, unseen, size)
    plain = torch.tensor(BACKGROUND).expand(8, 3) * 2 - 1
    with torch.no_grad():
        views = render(trainer.field, unseen, size, background=plain).features
    error = ((views - truth) / 2).square().mean(dim=(1, 2, 3))
    psnr = -10 * error.log10()
    return {"settings": settings, "psnr": psnr.tolist(), "mean_psnr": float(psnr.mean()), "seconds": seconds}


if __name__ == "__main__":
    results = {f"{c} {n}": recover(n, c) for n, c in (("mushroom", "red"), ("house", "yellow"), ("snowman", "blue"))}
    for scene, result in results.items():
        print(f"{scene}: {result['mean_psnr']:.2f} dB at 8 unseen cameras, {result['seconds']:.0f} s")
    print(save("recover", {"scenes": results}))
