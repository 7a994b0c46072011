"""What experiments share: where they run, what they find, and how that is written down."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import __version__
from ..config import TrainConfig
from ..files import atomic
from ..scores.diffusers import DiffusersModel
from . import EXPERIMENTS
from .stages import Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Context:
    """Where an experiment runs, and how much it may take."""

    model: DiffusersModel
    name: str
    """The model's, as given."""
    stage: Stage
    base: TrainConfig
    """Settings that runs start from: the model's own."""
    device: torch.device
    seeds: tuple[int, ...]
    small: bool
    """As little as shows that it works."""
    say: Callable[[str], None]

    def pick(self, full: Any, small: Any) -> Any:
        """One of two sizes."""
        return small if self.small else full

    @property
    def quality(self) -> str:
        """Which figure of a judgement says how good an object is."""
        return next(iter(self.stage.labels))

    @property
    def label(self) -> str:
        """What it is called, with its unit."""
        return self.stage.labels[self.quality]


class Finding(NamedTuple):
    """What an experiment found."""

    claim: str
    """Of the paper, or the question."""
    measured: str
    """A few sentences with the numbers that answer it."""
    holds: bool
    """Whether the claim holds here."""
    numbers: dict[str, Any]
    draw: Callable[[Figure], None]
    """Draws the figure."""
    size: tuple[float, float] = (9, 4)
    """Of the figure, inches."""
    table: list[dict[str, str]] = []  # noqa: RUF012 - never changed
    """Rows for the page."""


VERDICTS = {True: "holds here", False: "does not hold here"}


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% confidence interval (Student's t)."""
    values = list(values)
    if len(values) < 2:
        return values[0], 0.0
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), half


def values_of(rows: Iterable[dict[str, Any]], key: str, **where: Any) -> list[Any]:
    """A figure of the rows whose other figures are the given ones."""
    return [r[key] for r in rows if all(r[k] == v for k, v in where.items())]


def told(values: Iterable[float], digits: int = 3) -> str:
    """Mean and interval, as text."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def table_of(rows: list[dict[str, Any]], columns: dict[str, str], by: str = "variant") -> list[dict[str, str]]:
    """Means and intervals of those figures that the rows have, a row a variant; `columns` says what they are called."""
    table = []
    for name in dict.fromkeys(r[by] for r in rows):
        line = {by: str(name)}
        for key, label in columns.items():
            values = [float(r[key]) for r in rows if r[by] == name and r.get(key) is not None]
            line |= {label: told(values, 2 if "dB" in label else 3)} if values else {}
        table.append(line)
    return table


def draw_intervals(ax: Any, rows: list[dict[str, Any]], key: str, label: str, by: str = "variant") -> None:
    """Mean, 95% interval and single values of a figure, a line a variant, the first on top."""
    names = list(dict.fromkeys(r[by] for r in rows))
    for i, name in enumerate(names):
        values = values_of(rows, key, **{by: name})
        mean, half = interval(values)
        ax.plot(values, [i + 0.2] * len(values), ".", color=f"C{i}", alpha=0.4)
        ax.errorbar([mean], [i], xerr=[half], fmt="s", ms=5, color=f"C{i}", capsize=3)
    ax.set_yticks(range(len(names)), [name.replace(", ", ",\n") if len(name) > 20 else name for name in names])
    ax.set(xlabel=label)
    ax.invert_yaxis()
    ax.grid(alpha=0.3, axis="x")


def write(finding: Finding, name: str, context: Context, seconds: float, folder: Path) -> None:
    """The figure and every number, as NAME.png and NAME.json."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=finding.size, layout="constrained", dpi=110)
    finding.draw(figure)
    with atomic(folder / f"{name}.png", "the figure") as partial:
        figure.savefig(partial, format="png", facecolor="white")
    record = {
        "experiment": name,
        "model": context.name,
        "seeds": context.seeds,
        "steps": context.base.steps,
        "small": context.small,
        "version": __version__,
        "device": str(context.device),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "claim": finding.claim,
        "measured": finding.measured,
        "holds": finding.holds,
        "table": finding.table,
        "numbers": finding.numbers,
    }
    with atomic(folder / f"{name}.json", "the numbers") as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")


def write_page(folder: Path, path: Path) -> None:
    """One page, in Markdown, of the experiments whose records are in a folder."""
    records = [json.loads(file.read_text()) for name in EXPERIMENTS if (file := folder / f"{name}.json").exists()]
    lines = [
        "# Experiments",
        "",
        "The paper's claims (arXiv 2212.00774) and what surrounds them, as `sjc-fast experiment` finds them. x ± y is",
        "a mean with its 95% confidence interval (Student's t) over seeds and, where there are several, prompts.",
        "",
        "| experiment | asks | claim | seeds | seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for r in records:
        name = r["experiment"].replace("_", "-")
        asks, verdict = EXPERIMENTS[r["experiment"]], VERDICTS[r["holds"]]
        lines.append(f"| [{name}](#{name}) | {asks} | {verdict} | {len(r['seeds'])} | {r['seconds']:.0f} |")
    for r in records:
        lines += _section(r, folder.name)
    with atomic(path, "the page") as partial:
        partial.write_text("\n".join(lines) + "\n")


def _section(record: dict[str, Any], folder: str) -> list[str]:
    """Of the page: one experiment."""
    name = record["experiment"]
    lines = ["", f"## {name.replace('_', '-')}", ""]
    lines += [f"**Claim.** {record['claim']}", ""]
    lines += [f"**Measured.** {record['measured']}", ""]
    lines += [f"**Verdict.** It {VERDICTS[record['holds']]}."]
    if record["table"]:
        columns = list(record["table"][0])
        lines += ["", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(row.values())} |" for row in record["table"]]
    lines += ["", f"![{name}]({folder}/{name}.png)", ""]
    return [*lines, f"Model `{record['model']}`, every number in [{name}.json]({folder}/{name}.json)."]
