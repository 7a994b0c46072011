"""Score distillation (DreamFusion) against score Jacobian chaining, at equal evaluations of the network."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from .frame import Context, Finding, draw_intervals, interval, table_of, told, values_of
from .objects import config_for, make, steps_for

MARKS = (0.125, 0.25, 0.5, 0.75)


def variants(samples: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Settings by name: all draw sigma at random from the model's table, as SDS and the paper do."""
    sds = {"estimator": "sds", "sigma": {"drop_largest": 20, "drop_smallest": 20}}
    made = {"SDS": {"noise_samples": 1, "score": sds}}
    for estimator in ("eq15", "eq16"):
        for n in samples:
            made[f"SJC {estimator}, n={n}"] = {"noise_samples": n, "score": {"estimator": estimator}}
    for weighting in ("sigma2", "one"):
        made[f"SJC eq16, n=1, {weighting}"] = {"noise_samples": 1, "score": {"weighting": weighting}}
    return made


def run(context: Context) -> Finding:
    """The same object by every variant and seed, judged on the way."""
    (prompt,) = context.stage.prompts("a red mushroom")
    rows: list[dict[str, Any]] = []
    for name, changes in variants(context.pick((1, 4, 8), (1, 4))).items():
        for seed in context.seeds:
            rows += [{"variant": name, "seed": seed, **row} for row in _make(context, prompt, changes, seed)]
        context.say(f"  {name}: {told(values_of(at_the_end(rows), context.quality, variant=name), 2)}")
    ends = at_the_end(rows)
    final = {name: values_of(ends, context.quality, variant=name) for name in dict.fromkeys(r["variant"] for r in ends)}
    best = max(final, key=lambda name: interval(final[name])[0])
    ours, theirs, noisy = (final[name] for name in ("SJC eq16, n=1", "SDS", "SJC eq15, n=1"))
    over_sds, over_eq15 = ([a - b for a, b in zip(ours, other, strict=True)] for other in (theirs, noisy))
    spent = int(rows[-1]["evaluations"])
    measured = (
        f'"{prompt}" after {spent} evaluations with random sigma, {context.label}: SDS {told(theirs, 2)}; SJC with one '
        f"noise sample and Eq. 16 {told(ours, 2)}, Eq. 15 {told(noisy, 2)}. For the same seed, Eq. 16 less SDS "
        f"{told(over_sds, 2)}, less Eq. 15 {told(over_eq15, 2)}. Best of all: {best}, {told(final[best], 2)}. SDS and "
        "SJC with Eq. 16 and n = 1 differ in w(t), and in the ticks that their authors leave out."
    )
    bounds = [mean - half for mean, half in map(interval, (over_sds, over_eq15))]
    return Finding(
        "SJC generalises DreamFusion's SDS, which it equals up to a weight of sigma; Eq. 16 has less variance than "
        "Eq. 15 and does better.",
        measured,
        bounds[0] > -1 and bounds[1] > 0,
        {"rows": rows},
        lambda figure: _draw(figure, context, rows),
        (9, 4.5),
        table_of(ends, context.stage.labels),
    )


def _make(context: Context, prompt: str, changes: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """One run, of as many steps as the evaluations allow."""
    base = {"steps": steps_for(context, changes["noise_samples"])}
    score = {"antithetic": False, **changes["score"], "sigma": {"mode": "random", **changes["score"].get("sigma", {})}}
    config = config_for(context, prompt, seed, {**base, "noise_samples": changes["noise_samples"], "score": score})
    return make(context, config, MARKS)[1]


def at_the_end(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of every run."""
    last = {(r["variant"], r["seed"]): r for r in rows}  # rows of a run are in order
    return list(last.values())


def _draw(figure: Any, context: Context, rows: list[dict]) -> None:
    curves, ends = figure.subplots(1, 2, width_ratios=(3, 2))
    names = list(dict.fromkeys(r["variant"] for r in rows))
    for i, name in enumerate(names):
        mine = [r for r in rows if r["variant"] == name]
        at = sorted({r["evaluations"] for r in mine})
        means = [fmean(values_of(mine, context.quality, evaluations=e)) for e in at]
        curves.plot(at, means, "o-", ms=3, color=f"C{i}")
    curves.set(xlabel="evaluations of the network", ylabel=context.label, title="on the way, seeds' mean")
    curves.grid(alpha=0.3)
    draw_intervals(ends, at_the_end(rows), context.quality, context.label)
