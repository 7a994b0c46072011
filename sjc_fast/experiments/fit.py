"""The renderer alone: posed photographs of a known object become a field, coarse to fine."""

from __future__ import annotations

from typing import Any

import torch

from ..fit import FitSettings, fit_steps, measure
from ..shapes.photos import photograph
from .frame import Context, Finding, values_of

OBJECTS = (("mushroom", "red"), ("robot", "blue"))


def run(context: Context) -> Finding:
    """Fit every object with every seed, coarse to fine and at one resolution."""
    size, count = context.pick((96, 40), (24, 6))
    plans = {"coarse to fine": FitSettings(), "fine only": FitSettings(resolutions=(96,), steps=900)}
    if context.small:
        plans = {"coarse to fine": FitSettings(resolutions=(8, 16), steps=5)}
    rows, shown = [], []
    for name, colour in OBJECTS[: context.pick(2, 1)]:
        train, test = (photograph(name, colour, n, size, seed) for seed, n in enumerate((count, 8)))
        for plan, settings in plans.items():
            settings.seed = context.seeds[0]
            for field in fit_steps(train, settings, context.device):  # noqa: B007
                pass
            psnr, views = measure(field, test)
            rows.append({"object": name, "plan": plan, "seed": settings.seed, "psnr": float(psnr.mean())})
            context.say(f"  {name}, {plan}: {rows[-1]['psnr']:.1f} dB")
            if plan == "coarse to fine":
                shown.append((name, views, test.over(torch.ones(3))))
    named = ", ".join(f"{r['object']}, {r['plan']} {r['psnr']:.1f}" for r in rows)
    return Finding(
        "The voxel renderer by itself recovers an object from posed photographs; asked here: 30 dB on held-out views.",
        f"PSNR on 8 held-out photographs of {size} x {size} pixels, from {count}, dB: {named}.",
        min(values_of(rows, "psnr", plan="coarse to fine")) >= 30,
        {"rows": rows},
        lambda figure: _draw(figure, shown),
        (10, 2.6 * len(shown)),
    )


def _draw(figure: Any, shown: list[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    axes = figure.subplots(2 * len(shown), 1, squeeze=False)[:, 0]
    for i, (name, views, truth) in enumerate(shown):
        for ax, pictures, what in ((axes[2 * i], views, "fitted"), (axes[2 * i + 1], truth, "photographs")):
            ax.imshow(torch.cat(list(pictures), dim=-1).clamp(0, 1).permute(1, 2, 0).numpy())
            ax.set_title(f"{name}: {what}, held out", fontsize=8)
            ax.set_axis_off()
