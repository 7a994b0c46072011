"""The Janus problem: an object with a face on every side, and what direction words do against it."""

from __future__ import annotations

import base64
from typing import Any

import imageio.v3 as iio
import torch

from ..export.pictures import to_bytes
from ..scene.field import VoxelField
from ..training.config import CameraConfig, TrainConfig
from .context import Context
from .report import Finding, draw_intervals
from .runs import make_each
from .statistics import format_ci, mean_exceeds, paired_difference, table_of, values_of

WORDS, NONE, BLENDED = "words", "no words", "blended words"
ANYWHERE = ", cameras anywhere"


def variants(own: CameraConfig) -> dict[str, dict[str, Any]]:
    """Settings by name. Cameras stand in the middle of their direction, where the law has directions, or anywhere."""
    table = {WORDS: "nearest", NONE: "none", BLENDED: "blended"}
    if own.sampling != "directions":
        return {name: {"words": words} for name, words in table.items()}
    made = {name: {"words": table[name], "spread": 0.0} for name in (WORDS, NONE)}  # nothing to blend in the middle
    return made | {name + ANYWHERE: {"words": table[name], "spread": 1.0} for name in (WORDS, BLENDED)}


def run(context: Context) -> Finding:
    """Every variant, prompt and seed: how many sides show what only the front should."""
    table = variants(context.base.cameras)
    rows = [row for name, cameras in table.items() for row in _objects(context, name, cameras)]
    strips = {r["variant"]: strip for r in rows if (strip := r.pop("strip", ""))}
    of = {name: values_of(rows, "faces", variant=name) for name in table}
    more = paired_difference(of[NONE], of[WORDS])
    where = ANYWHERE if WORDS + ANYWHERE in of else ""
    fixed, blended = of[WORDS + where], of[BLENDED + where]
    return Finding(
        "View-dependent prompts mitigate the many-faces problem; without them every side becomes a front.",
        f"Share of the other sides that look more like the front than like themselves: {format_ci(of[WORDS])} with "
        f"direction words, {format_ci(of[NONE])} without (difference {format_ci(more)}). Words blended between "
        f"directions, from the same cameras: {format_ci(blended)}, against {format_ci(fixed)} with the nearest "
        "direction's.",
        mean_exceeds(more),
        {"rows": rows},
        lambda figure: _draw(figure, rows, strips),
        (11, 5),
        table_of(rows, {"faces": "sides like the front", "facing": "front and back right", **context.judge.labels}),
    )


def _objects(context: Context, name: str, cameras: dict[str, Any]) -> list[dict[str, Any]]:
    """One variant: every prompt with every seed; the first has a picture, too."""
    prompts = context.judge.prompts("a blue snowman", "a green house", "a yellow duck")

    def look(field: VoxelField, config: TrainConfig) -> dict[str, Any]:
        first = (config.prompt, config.seed) == (prompts[0], context.seeds[0])
        strip = {"strip": _strip(context.judge.views(field))} if first else {}
        return {"faces": context.judge.faces(field, config.prompt), **strip}

    rows = [{"variant": name, **row} for row in make_each(context, prompts, {"cameras": cameras}, look)]
    context.say(f"  {name}: {format_ci(values_of(rows, 'faces'))}")
    return rows


def _strip(views: torch.Tensor) -> str:
    """Pictures side by side, as a PNG in base64."""
    png = iio.imwrite("<bytes>", to_bytes(torch.cat(list(views), dim=-1)), extension=".png")
    return base64.b64encode(png).decode()


def _draw(figure: Any, rows: list[dict], strips: dict[str, str]) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(2, 5))
    ax = left.subplots()
    draw_intervals(ax, rows, "faces", "sides that look like the front")
    ax.tick_params(labelsize=8)
    for ax, (name, strip) in zip(right.subplots(len(strips), 1), strips.items(), strict=True):
        ax.imshow(iio.imread(base64.b64decode(strip)))
        ax.set_title(f"{name}: from the front, then to the object's left", fontsize=8)
        ax.set_axis_off()
