"""What the emptiness loss and the center-depth loss do: floaters, and where the object stands."""

from __future__ import annotations

from typing import Any

from ..training.config import LossConfig
from .context import Context
from .report import Finding, draw_intervals
from .runs import make_each
from .statistics import format_ci, mean_exceeds, paired_difference, table_of, values_of

OWN, NONE, EVEN, DEEP = "model's own", "no emptiness loss", "emptiness, no schedule", "center depth 10"


def variants(own: LossConfig) -> dict[str, dict[str, Any]]:
    """Settings by name, around the model's own."""
    late = own.emptiness_weight * own.emptiness_multiplier
    base = {"emptiness_weight": own.emptiness_weight, "emptiness_multiplier": own.emptiness_multiplier}
    base["depth_weight"] = 0.0
    return {
        OWN: base,
        NONE: base | {"emptiness_weight": 0.0},
        EVEN: base | {"emptiness_multiplier": 1.0},
        "emptiness, late weight at once": base | {"emptiness_weight": late, "emptiness_multiplier": 1.0},
        "center depth 0.1": base | {"depth_weight": 0.1},
        DEEP: base | {"depth_weight": 10.0},
    }


def run(context: Context) -> Finding:
    """Every variant, prompt and seed."""
    rows = [row for name, losses in variants(context.base.losses).items() for row in _objects(context, name, losses)]
    strays = context.judge.strays
    key = next(iter(strays))
    of = lambda name, key: values_of(rows, key, variant=name)  # noqa: E731
    more = paired_difference(of(NONE, key), of(OWN, key))
    drift = paired_difference(of(DEEP, "offset"), of(OWN, "offset"))
    measured = (
        f"{strays[key].capitalize()}, as a share of all of it: {format_ci(of(OWN, key))} with the model's own "
        f"settings, {format_ci(of(NONE, key))} without emptiness loss (difference {format_ci(more)}), "
        f"{format_ci(of(EVEN, key))} without its schedule. The center-depth loss, with weight 10, changes how far "
        "the object's center is off by "
        f"{format_ci(drift)} half sides of the box, from {format_ci(of(OWN, 'offset'))} without it."
    )
    return Finding(
        "The emptiness loss removes floaters (section 4.3). Asked beside it: what its schedule and the center-depth "
        "loss do.",
        measured,
        mean_exceeds(more),
        {"rows": rows},
        lambda figure: _draw(figure, rows, {**strays, **context.judge.labels}),
        (12, 7),
        table_of(rows, {**strays, **context.judge.labels}),
    )


def _objects(context: Context, name: str, losses: dict[str, Any]) -> list[dict[str, Any]]:
    """One variant: every prompt with every seed."""
    prompts = context.judge.prompts("a red mushroom", "a blue snowman")
    look = lambda field, config: context.judge.stray(field, config.prompt)  # noqa: E731
    rows = [{"variant": name, **row} for row in make_each(context, prompts, {"losses": losses}, look)]
    context.say(f"  {name}: {format_ci(values_of(rows, next(iter(context.judge.strays))))}")
    return rows


def _draw(figure: Any, rows: list[dict], labels: dict[str, str]) -> None:
    grid = figure.subplots(-(-len(labels) // 3), min(3, len(labels)), squeeze=False, sharey=True)
    for i, ax in enumerate(grid.flatten()):
        if i < len(labels):
            draw_intervals(ax, rows, *list(labels.items())[i])
        else:
            ax.set_axis_off()
