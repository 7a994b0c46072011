"""What experiments share: where they run, what they find, and how that is written down."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import __version__
from ..config import TrainConfig, settings_of
from ..errors import UserError
from ..files import atomic
from ..scores.diffusers import DiffusersModel
from . import EXPERIMENTS
from .ledger import Ledger
from .stages import Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Context:
    """Where an experiment runs, and how much it may take."""

    model: DiffusersModel
    name: str
    """The model's, as given."""
    prompt: str
    """As given; "" for the experiments' own."""
    stage: Stage
    base: TrainConfig
    """Settings that runs start from: the model's own."""
    device: torch.device
    seeds: tuple[int, ...]
    small: bool
    """As little as shows that it works."""
    ledger: Ledger
    """Runs of this experiment that were made already."""
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
    holds: bool | None
    """Whether the claim holds here; None where the runs do not decide it."""
    numbers: dict[str, Any]
    draw: Callable[[Figure], None]
    """Draws the figure."""
    size: tuple[float, float] = (9, 4)
    """Of the figure, inches."""
    table: list[dict[str, str]] = []  # noqa: RUF012 - never changed
    """Rows for the page."""
    seeds: tuple[int, ...] | None = None
    """Those that were used, if not all."""


FIELDS = ("experiment", "model", "seeds", "small", "claim", "measured", "holds", "table", "numbers")
VERDICTS = {True: "holds here", False: "does not hold here", None: "is not decided by these runs"}


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% confidence interval (Student's t); infinite for a single value."""
    values = list(values)
    if len(values) < 2:
        return values[0], math.inf
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), half


def above(values: Iterable[float], limit: float = 0.0) -> bool | None:
    """Whether the mean is above a limit, if the whole interval is on one side of it."""
    mean, half = interval(values)
    return None if abs(mean - limit) <= half else mean > limit


def both(one: bool | None, other: bool | None) -> bool | None:
    """Whether two things hold, where either may be undecided."""
    if False in (one, other):
        return False
    return None if None in (one, other) else True


def values_of(rows: Iterable[dict[str, Any]], key: str, **where: Any) -> list[float]:
    """A figure by seed, in order: means over the rows whose other figures are the given ones. Prompts are no seeds."""
    by_seed: dict[int, list[float]] = {}
    for r in rows:
        if r.get(key) is not None and all(r[k] == v for k, v in where.items()):
            by_seed.setdefault(r["seed"], []).append(float(r[key]))
    return [statistics.fmean(by_seed[seed]) for seed in sorted(by_seed)]


def less(one: list[float], other: list[float]) -> list[float]:
    """Differences for the same seed."""
    return [a - b for a, b in zip(one, other, strict=True)]


def told(values: Iterable[float], digits: int = 3) -> str:
    """Mean and interval, as text."""
    mean, half = interval(values)
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def table_of(rows: list[dict[str, Any]], columns: dict[str, str], by: str = "variant") -> list[dict[str, str]]:
    """Means and intervals of those figures that the rows have, a row a variant; `columns` says what they are called."""
    table = []
    for name in dict.fromkeys(r[by] for r in rows):
        figures = {label: values_of(rows, key, **{by: name}) for key, label in columns.items()}
        table.append({by: name} | {k: told(v, _digits(k, v)) for k, v in figures.items() if v})
    return table


def _digits(label: str, values: list[float]) -> int:
    return 2 if "dB" in label else 3 if max(map(abs, values)) < 10 else 0


def draw_intervals(ax: Any, rows: list[dict[str, Any]], key: str, label: str, by: str = "variant") -> None:
    """Mean, 95% interval and seeds' values of a figure, a line a variant, the first on top."""
    names = list(dict.fromkeys(r[by] for r in rows))
    for i, name in enumerate(names):
        values = values_of(rows, key, **{by: name})
        mean, half = interval(values)
        ax.plot(values, [i + 0.2] * len(values), ".", color=f"C{i}", alpha=0.4)
        ax.errorbar([mean], [i], xerr=[half if math.isfinite(half) else 0], fmt="s", ms=5, color=f"C{i}", capsize=3)
    ax.set_yticks(range(len(names)), [",\n".join(name.rsplit(", ", 1)) if len(name) > 20 else name for name in names])
    ax.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
    ax.grid(alpha=0.3, axis="x")


def write(finding: Finding, name: str, context: Context, folder: Path) -> None:
    """The figure and every number, as NAME.png and NAME.json."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=finding.size, layout="constrained", dpi=110)
    finding.draw(figure)
    with atomic(folder / f"{name}.png", "the figure") as partial:
        figure.savefig(partial, format="png", facecolor="white")
    record = {
        "experiment": name,
        "model": context.name,
        "prompt": context.prompt,
        "seeds": context.seeds if finding.seeds is None else finding.seeds,
        "small": context.small,
        "settings": settings_of(context.base),
        "version": __version__,
        "device": device_name(context.device),
        **{key: getattr(finding, key) for key in ("claim", "measured", "holds", "table", "numbers")},
    }
    with atomic(folder / f"{name}.json", "the numbers") as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")


def device_name(device: torch.device) -> str:
    """A CUDA device's own, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


def write_page(folder: Path, path: Path) -> None:
    """One page, in Markdown, of the experiments whose records are in a folder."""
    records = [read_record(file) for name in EXPERIMENTS if (file := folder / f"{name}.json").exists()]
    lines = [
        "# Experiments",
        "",
        "The paper's claims (arXiv 2212.00774) and what surrounds them, as `sjc-fast experiment` finds them. x ± y is",
        "a mean with its 95% confidence interval (Student's t) over seeds; several prompts are averaged first.",
        "",
        "| experiment | asks | the claim | seeds |",
        "| --- | --- | --- | --- |",
    ]
    for r in records:
        name = r["experiment"].replace("_", "-")
        asks, verdict = EXPERIMENTS[r["experiment"]], VERDICTS[r["holds"]] + " (small)" * r["small"]
        lines.append(f"| [{name}](#{name}) | {asks} | {verdict} | {len(r['seeds'])} |")
    for r in records:
        lines += _section(r, folder.name)
    with atomic(path, "the page") as partial:
        partial.write_text("\n".join(lines) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        UserError: it was something else.
    """
    try:
        record = json.loads(path.read_text())
        if not set(FIELDS) <= record.keys():
            raise ValueError("it lacks fields")
        return record
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is no record of an experiment: {error}") from None


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
