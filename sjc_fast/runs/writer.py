"""What a run encodes and writes while its steps go on: a thread with a short queue, in order, with nothing lost."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

LOG = logging.getLogger(__name__)

Job = Callable[[], object]


class BackgroundWriter:
    """A context in which jobs are done by another thread, one after the other.

    Leaving it waits for all of them, however it is left. What a job raises is raised in the thread that gave it: when
    it gives the next one, or at the end; where another error ends the context it is a warning. What follows a failed
    job is not done.
    """

    WAITING = 2
    """Jobs that may wait; giving one more waits for the writer."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Job | None] = queue.Queue(self.WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def __enter__(self) -> BackgroundWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._jobs.put(None)
        self._thread.join()
        if error is None:
            self._raise()
        elif self._error is not None:
            LOG.warning("%s", self._error)

    def submit(self, job: Callable[..., object], *arguments: Any) -> None:
        """Have something done; waits where too much is waiting already.

        Raises:
            Exception: what an earlier job raised.
        """
        self._raise()
        self._jobs.put(lambda: job(*arguments))

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        failed = False
        while (job := self._jobs.get()) is not None:
            if failed:
                continue
            try:
                job()
            except BaseException as error:
                self._error, failed = error, True
