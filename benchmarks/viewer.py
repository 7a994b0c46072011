"""What the live viewer costs a run: ``python -m benchmarks.viewer [--browser]``.

Blocks of steps of the embedded model's run, by turns without a viewer, with one that nobody looks at, and (with
--browser) with a browser on the same machine, which draws in software here and takes processor time of its own.
Medians of the ratios of neighboring blocks; results/viewer.json.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from sjc_fast import load_score_model
from sjc_fast.runs.reporter import Reporter
from sjc_fast.runs.settings import default_config
from sjc_fast.training.config import merge
from sjc_fast.training.trainer import Readout, Trainer
from sjc_fast.viewer import ViewerReporter

from .browser import chromium
from .report import save

PORT = 8141


@dataclass
class Options:
    """How long."""

    rounds: int = 12
    steps: int = 30
    """Steps a block."""
    browser: bool = False


@contextlib.contextmanager
def listening(trainer: Trainer, browser: bool) -> Iterator[Reporter]:
    """A viewer for a while, watched or not."""
    reporter = ViewerReporter("127.0.0.1", PORT, lambda _: None)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        reporter.start(trainer, Path(folder))
        stack.callback(reporter.close)
        if browser:
            page = stack.enter_context(chromium()).new_page(viewport={"width": 900, "height": 560})
            page.goto(f"http://127.0.0.1:{PORT}")
            page.get_by_text("density threshold").wait_for(timeout=60_000)
        yield reporter


def block(trainer: Trainer, reporter: Reporter, steps: int) -> float:
    """Seconds of some steps, taken as `train` takes them."""
    readout, started = Readout(trainer.log), time.perf_counter()
    for _ in range(steps):
        trainer.step()
        reporter.step(trainer.position)
        if trainer.position % 10 == 0:
            readout.send(trainer.position)
            for at, metrics in readout.arrived():
                reporter.measured(at, metrics)
        reporter.asked()
    return time.perf_counter() - started


def main(options: Options) -> None:
    """Measure and write JSON."""
    config = merge(default_config("shapes"), {"prompt": "a red mushroom", "device": "cpu", "steps": 100_000})
    trainer = Trainer(config, load_score_model("shapes", "cpu"), "cpu")
    block(trainer, Reporter(), options.steps)
    ways = {"nobody looks": False} | ({"a browser on the same machine": True} if options.browser else {})
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(options.rounds):
        for name, browser in ways.items():
            plain = block(trainer, Reporter(), options.steps) if i % 2 else None
            with listening(trainer, browser) as reporter:
                watched = block(trainer, reporter, options.steps)
            plain = plain or block(trainer, Reporter(), options.steps)
            ratios[name].append(watched / plain)
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.3f} times the time without a viewer")
    print(save("viewer", {"steps": options.steps, "time_ratio": medians, "ratios": ratios}))


if __name__ == "__main__":
    main(tyro.cli(Options))
