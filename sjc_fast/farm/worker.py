"""A worker of the farm: an actor that makes the objects that it is given, with a model that stays loaded."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import UserError, name_settings_as_options
from ..runs.batch import DONE, FAILED, STOPPED, Batch, Keeper, Listener, ListSource, Models, Outcome
from ..runs.elsewhere import RemoteKeeper
from ..runs.jobs import Job
from ..storage.remote import RemoteFolder, is_remote
from ..training.config import TrainConfig, merge, to_dict

#: Seconds between two reports of progress.
OFTEN = 1.0


def pack(job: Job) -> dict[str, Any]:
    """A job as plain values, to travel."""
    return {"name": job.name, "config": to_dict(job.config)}


class Worker:
    """Makes objects, one batch after the other.

    Args:
        output: where they go: a folder that all machines see, or a URL.
        together: how many advance in one step; None to find out.
        deterministic: each to the same bits as alone.
        threads: of a CPU; 0 leaves it to PyTorch.
        board: an actor that is told of progress, or None.
    """

    def __init__(self, output: str, together: int | None, deterministic: bool, threads: int, board: Any) -> None:
        name_settings_as_options()
        torch.use_deterministic_algorithms(deterministic)
        if threads:
            torch.set_num_threads(threads)
        self.output, self.together = output, together
        self._board, self._models = board, Models()
        self._batch: Batch | None = None
        self._found: dict[str, int] = {}
        self._stopping = False

    def version(self) -> str:
        """Of this program, on the worker's machine."""
        return __version__

    def make(self, packed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Make some objects; how each ended, as plain values."""
        with tempfile.TemporaryDirectory(prefix="sjc-fast-") as scratch:
            try:
                return self._make(packed, Path(scratch))
            except UserError as error:  # there is no device, or nothing to keep the objects in
                return [{"name": p["name"], "status": FAILED, "message": str(error), "seconds": 0.0} for p in packed]

    def _make(self, packed: list[dict[str, Any]], scratch: Path) -> list[dict[str, Any]]:
        keeper, output = Keeper(), Path(self.output)
        if is_remote(self.output):
            keeper, output = RemoteKeeper(RemoteFolder(self.output)), scratch
        jobs = [Job(p["name"], merge(TrainConfig(), p["config"])) for p in packed]
        jobs = [replace(job, config=replace(job.config, output=output / job.name)) for job in jobs]
        self._batch = Batch(ListSource(jobs), self.together, _Teller(self._board), keeper, self._models, self._found)
        if self._stopping:
            self._batch.ask_to_stop()
        outcomes = self._batch.run()
        ended = {o.job.name: o for o in outcomes}
        stopped = [Outcome(job, STOPPED) for job in jobs if job.name not in ended]  # which had not begun
        return [
            {"name": o.job.name, "status": o.status, "message": o.message, "seconds": o.seconds}
            for o in [*outcomes, *stopped]
        ]

    def stop(self) -> None:
        """Save what is under way, and let `make` return; from now on it begins nothing."""
        self._stopping = True
        if self._batch is not None:
            self._batch.ask_to_stop()


class _Teller(Listener):
    """Tells the board, now and then, how far the objects are."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._steps, self._said = 0, time.monotonic()

    def begun(self, job: Job, position: int) -> None:
        self._tell(name=job.name, status="running", steps=position)

    def stepped(self, objects: int) -> None:
        self._steps += objects
        if time.monotonic() - self._said > OFTEN:
            self._tell(steps=self._steps)
            self._steps = 0

    def ended(self, outcome: Outcome) -> None:
        steps, self._steps = self._steps, 0
        if outcome.status == DONE:
            self._tell(name=outcome.job.name, status="results written", steps=steps)
        else:
            self._tell(steps=steps)

    def _tell(self, **news: Any) -> None:
        self._said = time.monotonic()
        if self._board is not None:
            self._board.tell.remote(news)
