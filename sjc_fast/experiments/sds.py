"""Score distillation (DreamFusion) against score Jacobian chaining, at equal evaluations of the network."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from .context import Context
from .report import Finding, draw_intervals
from .runs import config_for, make, steps_for
from .statistics import all_hold, format_ci, mean_exceeds, paired_difference, table_of, values_of

MARKS = (0.125, 0.25, 0.5, 0.75)
SDS, SJC, NOISY = "SDS", "SJC eq16, n=1", "SJC eq15, n=1"


def variants(samples: tuple[int, ...] = (1, 4, 8)) -> dict[str, dict[str, Any]]:
    """Settings by name. All draw sigma at random from the table, less the ticks that their authors leave out."""
    made = {SDS: _variant("sds", drop_largest=20, drop_smallest=20)}
    for estimator in ("eq15", "eq16"):
        for n in samples:
            made[f"SJC {estimator}, n={n}"] = _variant(estimator, n)
    for weighting in ("sigma2", "one"):
        made[f"{SJC}, weight {weighting}"] = _variant("eq16", weighting=weighting)
    return made


def _variant(estimator: str, n: int = 1, weighting: str = "sigma", **ticks: int) -> dict[str, Any]:
    sigma = {"mode": "random", "drop_largest": 30, "drop_smallest": 10, **ticks}
    score = {"estimator": estimator, "weighting": weighting, "antithetic": False, "sigma": sigma}
    return {"noise_samples": n, "score": score}


def run(context: Context) -> Finding:
    """The same object by every variant and seed, judged on the way."""
    (prompt,) = context.judge.prompts("a red mushroom")
    rows: list[dict[str, Any]] = []
    for name, changes in variants().items():
        for seed in context.seeds:
            config = config_for(
                context, prompt, seed, changes | {"steps": steps_for(context, changes["noise_samples"])}
            )
            rows += [{"variant": name, "seed": seed, **row} for row in make(context, config, MARKS)]
        context.say(f"  {name}: {format_ci(values_of(at_the_end(rows), context.quality, variant=name), 2)}")
    ends, limit = at_the_end(rows), context.judge.negligible
    final = {name: values_of(ends, context.quality, variant=name) for name in variants()}
    best = max(final, key=lambda name: fmean(final[name]))
    over_sds, over_eq15 = paired_difference(final[SJC], final[SDS]), paired_difference(final[SJC], final[NOISY])
    measured = (
        f'"{prompt}" after {rows[-1]["evaluations"]:.0f} evaluations with random sigma, {context.label}: SDS '
        f"{format_ci(final[SDS], 2)}; SJC with one noise sample and Eq. 16 {format_ci(final[SJC], 2)}, Eq. 15 "
        f"{format_ci(final[NOISY], 2)}. For the same seed, Eq. 16 less SDS {format_ci(over_sds, 2)}, less Eq. 15 "
        f"{format_ci(over_eq15, 2)}. Best of all: {best}, {format_ci(final[best], 2)}. SDS and SJC with Eq. 16 "
        "and n = 1 differ in w(t), and in the ticks that their authors leave out."
    )
    return Finding(
        f"SJC generalises DreamFusion's SDS and is at least as good (within {limit:g} dB); Eq. 16 has less variance "
        "than Eq. 15 and does better.",
        measured,
        all_hold(mean_exceeds(over_sds, -limit), mean_exceeds(over_eq15)),
        {"rows": rows},
        lambda figure: _draw(figure, context, rows),
        (10, 5),
        table_of(ends, context.judge.labels),
    )


def at_the_end(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of every run."""
    last = {(r["variant"], r["seed"]): r for r in rows}  # rows of a run are in order
    return list(last.values())


def _draw(figure: Any, context: Context, rows: list[dict]) -> None:
    curves, ends = figure.subplots(1, 2, width_ratios=(3, 2))
    for i, name in enumerate(variants()):
        mine = [r for r in rows if r["variant"] == name]
        at = sorted({r["evaluations"] for r in mine})
        means = [fmean(values_of(mine, context.quality, evaluations=e)) for e in at]
        curves.plot(at, means, "o-", ms=3, color=f"C{i}")
    curves.set(xlabel="evaluations of the network", ylabel=context.label, title="on the way, seeds' mean")
    curves.grid(alpha=0.3)
    draw_intervals(ends, at_the_end(rows), context.quality, context.label)
    ends.set(title="at the end, 95% interval")
