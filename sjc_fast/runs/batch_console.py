"""What a batch shows while it runs: one bar for all, a line an object, and a page with those that are done."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..storage.remote import RemoteFolder
from .batch import DONE, FAILED, SKIPPED, STOPPED, Listener, Outcome
from .console import say
from .jobs import Job
from .report import write_gallery
from .reporter import Reporter

LOG = logging.getLogger(__name__)
#: The gallery is renewed only when so many times as long has passed as it took.
RARELY = 20
#: Files of a run that the gallery needs.
SHOWN = ("config.yaml", "run.json", "report.html", "turntable.mp4", "preview.png")


class BatchConsole(Listener):
    """A progress bar on stderr, lines on stdout, and the gallery.

    Args:
        jobs: all of them, in the order of the gallery.
        output: the batch's folder, or the one that stands for it here, for the gallery.
        remote: where the objects and the gallery go, if not there.
        shared: whether others make some of them.
    """

    def __init__(
        self, jobs: Sequence[Job], output: Path, remote: RemoteFolder | None = None, shared: bool = False
    ) -> None:
        from tqdm import tqdm

        self._shared = shared
        self.jobs, self.output, self.remote = jobs, output, remote
        self._page = output if remote is None else output / "gallery"
        self._done: set[str] = set()
        self._next_page = 0.0
        self._bar = tqdm(
            total=sum(job.config.steps for job in jobs),
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )

    def announce(self, message: str) -> None:
        self._bar.clear()
        say(message)

    def begun(self, job: Job, position: int) -> None:
        self._bar.update(position)
        if position:
            self.announce(f"{job.name}: goes on after step {position}")

    def stepped(self, objects: int) -> None:
        self._bar.update(objects)

    def ended(self, outcome: Outcome) -> None:
        job = outcome.job
        lines = {
            DONE: f"{job.name}: done in {outcome.seconds:.0f} s",
            SKIPPED: f"{job.name}: done before",
            FAILED: f"{job.name}: failed: {outcome.message}",
            STOPPED: f"{job.name}: stopped, saved",
        }
        self.announce(lines[outcome.status])
        if outcome.status == SKIPPED:
            self._bar.update(job.config.steps)
        if outcome.status in (DONE, SKIPPED):
            self._done.add(job.name)
            if time.monotonic() >= self._next_page:
                self.renew()

    def reporter(self, job: Job) -> Reporter:
        return _Notes(self, job)

    def renew(self) -> None:
        """Write the gallery of what is done; a page that cannot be written stops nothing."""
        started = time.monotonic()
        if self._shared and self.remote is None:
            self._done |= {job.name for job in self.jobs if job.name not in self._done and job.is_done()}
        names = [job.name for job in self.jobs if job.name in self._done]
        try:
            for name in names if self.remote is not None else []:
                if not (self._page / name).exists():
                    assert self.remote is not None
                    self.remote.fetch(name, self._page / name, SHOWN)
            if names:
                folders = [self._page / name for name in names]
                title = (self.remote.url if self.remote else self.output.name).rsplit("/", 1)[-1]
                own = self._page / f"gallery-{os.getpid()}.html"  # others may write theirs at this moment
                page = write_gallery(folders, own, title, embedded=False).replace(self._page / "gallery.html")
                if self.remote is not None:
                    self.remote.put_page(page)
        except (UserError, OSError) as error:
            LOG.warning("%s", error)
        self._next_page = time.monotonic() + RARELY * (time.monotonic() - started)

    def close(self) -> None:
        """After the last object."""
        self.renew()
        self._bar.close()


class _Notes(Reporter):
    """What one object's run has to say, under its name."""

    def __init__(self, console: BatchConsole, job: Job) -> None:
        self.console, self.job = console, job

    def note(self, message: str) -> None:
        self.console.announce(f"{self.job.name}: {message}")
