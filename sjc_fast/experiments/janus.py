"""The Janus problem: an object with a face on every side, and what direction words do against it."""

from __future__ import annotations

from typing import Any

import torch

from .frame import Context, Finding, draw_intervals, interval, table_of, told, values_of
from .objects import config_for, make

VARIANTS: dict[str, dict[str, Any]] = {
    "words": {},
    "no words": {"words": "none"},
    "words, cameras anywhere": {"spread": 1.0},
    "blended words, cameras anywhere": {"spread": 1.0, "words": "blended"},
}


def run(context: Context) -> Finding:
    """Every variant, prompt and seed: how many sides show what only the front should."""
    rows, shown = [], {}
    for name, cameras in VARIANTS.items():
        for prompt in context.stage.prompts("a blue snowman", "a green house", "a yellow duck")[: context.pick(3, 1)]:
            for seed in context.seeds:
                field, judged = make(context, config_for(context, prompt, seed, {"cameras": cameras}))
                faces = context.stage.faces(field, prompt)
                rows.append({"variant": name, "prompt": prompt, "seed": seed, **judged[-1], "faces": faces})
                shown.setdefault(name, context.stage.views(field))
        context.say(f"  {name}: {told(values_of(rows, 'faces', variant=name))}")
    worded, wordless, fixed, blended = (values_of(rows, "faces", variant=name) for name in VARIANTS)
    more = [a - b for a, b in zip(wordless, worded, strict=True)]
    mean, half = interval(more)
    return Finding(
        "View-dependent prompts mitigate the many-faces problem; without them every side becomes a front.",
        f"Share of the other sides that look more like the front than like themselves: {told(worded)} with "
        f"direction words, {told(wordless)} without. With cameras anywhere in a direction's patch: {told(fixed)} with "
        f"the nearest direction's words, {told(blended)} with words blended between directions.",
        mean - half > 0,
        {"rows": rows},
        lambda figure: _draw(figure, rows, shown),
        (10, 5),
        table_of(rows, {"faces": "sides like the front", "facing": "front and back right", **context.stage.labels}),
    )


def _draw(figure: Any, rows: list[dict], shown: dict[str, torch.Tensor]) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(2, 5))
    ax = left.subplots()
    draw_intervals(ax, rows, "faces", "sides that look like the front")
    ax.tick_params(labelsize=8)
    for ax, (name, views) in zip(right.subplots(len(shown), 1), shown.items(), strict=True):
        ax.imshow(torch.cat(list(views), dim=-1).clamp(0, 1).permute(1, 2, 0).numpy())
        ax.set_title(f"{name}: from the front, then to the object's left", fontsize=8)
        ax.set_axis_off()
