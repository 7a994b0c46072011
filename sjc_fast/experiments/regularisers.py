"""What the emptiness loss and the centre-depth loss do: floaters, and where the object stands."""

from __future__ import annotations

from typing import Any

from ..config import LossConfig
from .frame import Context, Finding, draw_intervals, interval, table_of, told, values_of
from .objects import config_for, make

OWN, NONE, UNSCHEDULED = "as it is", "no emptiness", "early and late alike"


def variants(own: LossConfig) -> dict[str, dict[str, Any]]:
    """Settings by name, around the model's own."""
    late = own.emptiness_weight * own.emptiness_multiplier
    return {
        OWN: {},
        NONE: {"emptiness_weight": 0.0},
        UNSCHEDULED: {"emptiness_multiplier": 1.0},
        "late weight from the start": {"emptiness_weight": late, "emptiness_multiplier": 1.0},
        "centre depth 0.1": {"depth_weight": 0.1},
        "centre depth 10": {"depth_weight": 10.0},
    }


def run(context: Context) -> Finding:
    """Every variant, prompt and seed."""
    table = variants(context.base.losses)
    rows = [row for name, losses in table.items() for row in _objects(context, name, losses)]
    of = lambda name, key: values_of(rows, key, variant=name)  # noqa: E731
    less = [a - b for a, b in zip(of(NONE, "floaters"), of(OWN, "floaters"), strict=True)]
    outside = context.stage.outside
    labels = {"floaters": f"mass outside {outside}", "offset": "offset of the centre", **context.stage.labels}
    measured = (
        f"Share of the density's mass outside {outside}: {told(of(OWN, 'floaters'))} with the model's own settings, "
        f"{told(of(NONE, 'floaters'))} without emptiness loss, {told(of(UNSCHEDULED, 'floaters'))} without its "
        f"schedule. Centre-depth loss: the object's centre is {told(of(OWN, 'offset'))} of the box's half side from "
        f"its place without it, {told(of('centre depth 10', 'offset'))} with weight 10."
    )
    mean, half = interval(less)
    return Finding(
        "The emptiness loss removes floaters (section 4.3). Asked beside it: what its schedule and the centre-depth "
        "loss do.",
        measured,
        mean - half > 0,
        {"rows": rows},
        lambda figure: _draw(figure, rows, dict(list(labels.items())[:3])),
        (10, 4),
        table_of(rows, labels),
    )


def _objects(context: Context, name: str, losses: dict[str, Any]) -> list[dict[str, Any]]:
    """One variant: every prompt with every seed."""
    rows = []
    for prompt in context.stage.prompts("a red mushroom", "a blue snowman")[: context.pick(2, 1)]:
        for seed in context.seeds:
            field, judged = make(context, config_for(context, prompt, seed, {"losses": losses}))
            place = context.stage.stray(field, prompt)
            rows.append({"variant": name, "prompt": prompt, "seed": seed, **judged[-1], **place})
    context.say(f"  {name}: floaters {told(values_of(rows, 'floaters'))}")
    return rows


def _draw(figure: Any, rows: list[dict], labels: dict[str, str]) -> None:
    for ax, (key, label) in zip(figure.subplots(1, len(labels)), labels.items(), strict=True):
        draw_intervals(ax, rows, key, label)
