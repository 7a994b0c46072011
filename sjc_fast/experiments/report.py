"""What an experiment found, and how it is written down: a figure, every number, a page about all of them."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import __version__
from ..errors import UserError
from ..storage.files import atomic
from ..training.config import settings_of
from . import EXPERIMENTS
from .context import Context
from .statistics import interval, values_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
