"""The renderer alone: posed photographs of a known object become a field, coarse to fine."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from ..shapes.photos import photograph
from ..training.fit import FitSettings, fit_steps, measure
from .context import Context
from .report import Finding
from .statistics import table_of

OBJECTS = (("mushroom", "red"), ("robot", "blue"))
COARSE = "coarse to fine"


def run(context: Context) -> Finding:
    """Fit every object coarse to fine, and at the fine resolution alone in as many steps."""
    size, count = context.pick((96, 40), (24, 6))
    plans = {COARSE: FitSettings(), "fine only": FitSettings(resolutions=(96,), steps=900)}
    if context.small:
        plans = {COARSE: FitSettings(resolutions=(8, 16), steps=5)}
    rows, shown, seed = [], [], context.seeds[0]
    for name, color in OBJECTS[: context.pick(2, 1)]:
        train, test = (photograph(name, color, n, size, part) for part, n in enumerate((count, 8)))
        for plan, settings in plans.items():
            started = time.monotonic()
            for field in fit_steps(train, replace(settings, seed=seed), context.device):  # noqa: B007
                pass
            row = {"variant": f"{name}, {plan}", "seed": seed, "seconds": time.monotonic() - started}
            psnr, views = measure(field, test)
            rows.append(row | {"psnr": float(psnr.mean()), "steps": settings.steps * len(settings.resolutions)})
            context.say(f"  {name}, {plan}: {rows[-1]['psnr']:.1f} dB")
            if plan == COARSE:
                shown.append((name, views, test.over(torch.ones(3))))
    reached = [r["psnr"] for r in rows if r["variant"].endswith(COARSE)]
    return Finding(
        "The voxel renderer by itself recovers an object from posed photographs; asked here: 30 dB on held-out views.",
        f"PSNR on 8 held-out photographs of {size} x {size} pixels, from {count}, coarse to fine: "
        f"{', '.join(f'{psnr:.1f}' for psnr in reached)} dB (table).",
        min(reached) >= 30,
        {"rows": rows},
        lambda figure: _draw(figure, shown),
        (10, 2.6 * len(shown)),
        table_of(rows, {"psnr": "PSNR, dB", "steps": "steps", "seconds": "seconds"}),
        (seed,),
    )


def _draw(figure: Any, shown: list[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    axes = figure.subplots(2 * len(shown), 1, squeeze=False)[:, 0]
    for i, (name, views, truth) in enumerate(shown):
        for ax, pictures, what in ((axes[2 * i], views, "fitted"), (axes[2 * i + 1], truth, "photographs")):
            ax.imshow(torch.cat(list(pictures), dim=-1).clamp(0, 1).permute(1, 2, 0).numpy())
            ax.set_title(f"{name}: {what}, held out", fontsize=8)
            ax.set_axis_off()
