"""What the emptiness loss and the centre-depth loss do: floaters, and where the object stands."""

from __future__ import annotations

from typing import Any

from ..config import LossConfig
from .frame import Context, Finding, above, draw_intervals, less, table_of, told, values_of
from .runs import make_each

OWN, NONE, EVEN, DEEP = "model's own", "no emptiness loss", "emptiness, no schedule", "centre depth 10"


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
        "centre depth 0.1": base | {"depth_weight": 0.1},
        DEEP: base | {"depth_weight": 10.0},
    }


def run(context: Context) -> Finding:
    """Every variant, prompt and seed."""
    rows = [row for name, losses in variants(context.base.losses).items() for row in _objects(context, name, losses)]
    strays = context.stage.strays
    key = next(iter(strays))
    of = lambda name, key: values_of(rows, key, variant=name)  # noqa: E731
    more = less(of(NONE, key), of(OWN, key))
    drift = less(of(DEEP, "offset"), of(OWN, "offset"))
    measured = (
        f"{strays[key].capitalize()}, as a share of all of it: {told(of(OWN, key))} with the model's own settings, "
        f"{told(of(NONE, key))} without emptiness loss (difference {told(more)}), {told(of(EVEN, key))} without "
        f"its schedule. The centre-depth loss, with weight 10, changes how far the object's centre is off by "
        f"{told(drift)} half sides of the box, from {told(of(OWN, 'offset'))} without it."
    )
    return Finding(
        "The emptiness loss removes floaters (section 4.3). Asked beside it: what its schedule and the centre-depth "
        "loss do.",
        measured,
        above(more),
        {"rows": rows},
        lambda figure: _draw(figure, rows, {**strays, **context.stage.labels}),
        (12, 7),
        table_of(rows, {**strays, **context.stage.labels}),
    )


def _objects(context: Context, name: str, losses: dict[str, Any]) -> list[dict[str, Any]]:
    """One variant: every prompt with every seed."""
    prompts = context.stage.prompts("a red mushroom", "a blue snowman")
    look = lambda field, config: context.stage.stray(field, config.prompt)  # noqa: E731
    rows = [{"variant": name, **row} for row in make_each(context, prompts, {"losses": losses}, look)]
    context.say(f"  {name}: {told(values_of(rows, next(iter(context.stage.strays))))}")
    return rows


def _draw(figure: Any, rows: list[dict], labels: dict[str, str]) -> None:
    grid = figure.subplots(-(-len(labels) // 3), min(3, len(labels)), squeeze=False, sharey=True)
    for i, ax in enumerate(grid.flatten()):
        if i < len(labels):
            draw_intervals(ax, rows, *list(labels.items())[i])
        else:
            ax.set_axis_off()
