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
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        for path in [*self._mine, self._clock]:
            path.unlink(missing_ok=True)

    def claim(self, job: Job) -> bool:
        """Whether the object is now this process's; False where another one has it."""
        path = self.folder / f"{job.name}.json"
        with contextlib.suppress(OSError):
            if path.exists() and self._is_stale(path):
                # Of several that see it, one renames it.
                path.rename(path.with_suffix(f".{uuid.uuid4().hex[:8]}.stale"))
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}, file)
        self._mine.add(path)
        return True

    def release(self, outcome: Outcome) -> None:
        """Give an object back. One that failed stays claimed while this process lives: others would only fail again."""
        path = self.folder / f"{outcome.job.name}.json"
        if outcome.status != FAILED and path in self._mine:
            self._mine.remove(path)
            path.unlink(missing_ok=True)

    def _is_stale(self, path: Path) -> bool:
        self._clock.touch()
        return self._clock.stat().st_mtime - path.stat().st_mtime > self.stale

    def _live(self) -> None:
        while not self._over.wait(self.beat):
            for path in list(self._mine):
                with contextlib.suppress(OSError):  # it is gone, or the file system is, which a later write will say
                    os.utime(path)
