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
from ..errors import UserError
from ..files import atomic
from ..scores.protocol import ScoreModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Context:
    """Where an experiment runs, and how much it may take."""

    model: ScoreModel
    name: str
    """The model's, as given."""
    scenes: str
    """Whose truth is known: "shapes", or nothing."""
    device: torch.device
    seeds: tuple[int, ...]
    small: bool
    """As little as shows that it works."""
    say: Callable[[str], None]

    def pick(self, full: Any, small: Any) -> Any:
        """One of two sizes."""
        return small if self.small else full

    def need_scenes(self) -> None:
        """Refuse a model whose objects have no known truth.

        Raises:
            UserError: naming it.
        """
        if self.scenes != "shapes":
            raise UserError(f"this experiment measures against a known truth, which model {self.name} has none of")


class Finding(NamedTuple):
    """What an experiment found."""

    claim: str
    """Of the paper, or the question."""
    measured: str
    """A few sentences with the numbers that answer it."""
    holds: bool | None
    """Whether the claim holds here; None where there is nothing to hold."""
    numbers: dict[str, Any]
    draw: Callable[[Figure], None]
    """Draws the figure."""
    size: tuple[float, float] = (9, 4)
    """Of the figure, inches."""


VERDICTS = {True: "holds here", False: "does not hold here", None: "a comparison"}


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% confidence interval (Student's t)."""
    values = list(values)
    if len(values) < 2:
        return values[0], 0.0
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), half


def told(values: Iterable[float], digits: int = 3) -> str:
    """Mean and interval, as text."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


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
        "small": context.small,
        "version": __version__,
        "device": str(context.device),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "claim": finding.claim,
        "measured": finding.measured,
        "holds": finding.holds,
        "numbers": finding.numbers,
    }
    with atomic(folder / f"{name}.json", "the numbers") as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")


def write_page(folder: Path, names: list[str], path: Path) -> None:
    """One page, in Markdown, of the experiments whose records are in a folder."""
    records = [json.loads((folder / f"{name}.json").read_text()) for name in names]
    lines = [
        "# Experiments",
        "",
        "The paper's claims (arXiv 2212.00774) and what surrounds them, as `sjc-fast experiment all` finds them.",
        "",
        "| experiment | verdict | seeds | seconds |",
        "| --- | --- | --- | --- |",
    ]
    for r in records:
        name, verdict = r["experiment"], VERDICTS[r["holds"]]
        lines.append(f"| [{name}](#{name}) | {verdict} | {len(r['seeds'])} | {r['seconds']:.0f} |")
    for r in records:
        name = r["experiment"]
        lines += ["", f"## {name}", "", f"**Asked.** {r['claim']}", "", f"**Measured.** {r['measured']}", ""]
        lines += [
            f"**Verdict.** It {VERDICTS[r['holds']]}." if r["holds"] is not None else "**Verdict.** A comparison."
        ]
        lines += ["", f"![{name}]({folder.name}/{name}.png)", ""]
        lines += [f"Model `{r['model']}`, every number in [{name}.json]({folder.name}/{name}.json)."]
    with atomic(path, "the page") as partial:
        partial.write_text("\n".join(lines) + "\n")
