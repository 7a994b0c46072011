"""Who makes which object, where several processes share a folder: claims, a small file each."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

from ..errors import UserError
from .batch import FAILED, Outcome
from .jobs import Job

#: Seconds between two signs of life, and without one after which a claim may be taken over.
BEAT, STALE = 20.0, 180.0


class Claims:
    """A context in which objects are claimed for this process, in files that only one process can create.

    A process that dies leaves claims without further signs of life (the file's time of change), which others take over.
    The times compared are all the shared file system's own, so that clocks need not agree.

    Args:
        folder: the batch's folder, shared by all processes.

    Raises:
        UserError: it cannot be written to.
    """

    def __init__(self, folder: Path, beat: float = BEAT, stale: float = STALE) -> None:
        self.folder, self.beat, self.stale = folder / ".claims", beat, stale
        self._own = uuid.uuid4().hex
        self._mine: set[Path] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="claims", daemon=True)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clock = self.folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.clock"
            self._clock.touch()
        except OSError as error:
            raise UserError(f"cannot write {self.folder}: {error.strerror}") from None

    def __enter__(self) -> Claims:
        self._thread.start()
        for path in self.folder.glob("*.clock"):  # of processes that died
            with contextlib.suppress(OSError):
                if self._is_stale(path):
                    path.unlink()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        for path in [p for p in self._mine if self._owns(p)] + [self._clock]:
            path.unlink(missing_ok=True)

    def claim(self, job: Job) -> bool:
        """Whether the object is now this process's; False where another one has it."""
        path = self.folder / f"{job.name}.json"
        with contextlib.suppress(OSError):
            if path.exists() and self._is_stale(path) and not self._remove_stale(path):
                return False
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            who = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time(), "id": self._own}
            json.dump(who, file)
        self._mine.add(path)
        return True

    def release(self, outcome: Outcome) -> None:
        """Give an object back. One that failed stays claimed while this process lives: others would only fail again."""
        path = self.folder / f"{outcome.job.name}.json"
        if outcome.status != FAILED and path in self._mine:
            self._mine.remove(path)
            if self._owns(path):
                path.unlink(missing_ok=True)

    def _owns(self, path: Path) -> bool:
        """Whether a claim is still this process's: one that was suspended for long may have lost it."""
        try:
            return json.loads(path.read_text())["id"] == self._own
        except (OSError, ValueError, KeyError):
            return False

    def _remove_stale(self, path: Path) -> bool:
        """Remove a stale claim; False where another process has just done so and claimed the object anew."""
        moved = path.with_suffix(f".{uuid.uuid4().hex[:8]}.moved")
        path.rename(moved)
        try:
            if self._is_stale(moved):
                return True
            os.link(moved, path)  # it is the other's new claim, which must be there
            return False
        finally:
            moved.unlink()

    def _is_stale(self, path: Path) -> bool:
        self._clock.touch()
        return self._clock.stat().st_mtime - path.stat().st_mtime > self.stale

    def _live(self) -> None:
        while not self._over.wait(self.beat):
            for path in list(self._mine):
                with contextlib.suppress(OSError):  # it is gone, or the file system is, which a later write will say
                    if self._owns(path):
                        os.utime(path)
