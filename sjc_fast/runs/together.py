"""How many objects advance together: a given number, or the one at which most steps are taken a second."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time

import torch

from ..training import graphs

#: Objects at most, where the number is sought.
MOST = 64
#: How much faster more must be to be worth it, and the share of the memory that may be used.
WORTH, FILLED = 1.05, 0.9
#: Numbers in a row that are not worth it before the search ends: on a busy machine, one may be bad luck.
PATIENCE = 2
#: Steps of a size before it is timed (they compile and capture), then the timed ones: so many, over so many seconds.
WARM_UP, STEPS, SECONDS = graphs.WARM_UP + 2, 7, 1.0


class Together:
    """The number of objects that advance together, as far as it is known.

    Sought, it starts with one and doubles, while that pays and fits into memory; the steps taken meanwhile are steps
    of the objects like any others. The number with the most steps a second by the median step is taken.

    Args:
        number: a given one; None to seek it.
        device: where the steps are taken.
    """

    def __init__(self, number: int | None, device: torch.device) -> None:
        self.size = number or 1
        self.settled = number is not None
        self.device = device
        self.tried: list[dict[str, float]] = []
        """What was measured: objects, object steps a second, bytes at the peak."""
        self._steps, self._seconds = 0, list[float]()
        self._started = 0.0

    def begin(self) -> None:
        """Objects join or leave: what was measured of this number of objects is measured anew."""
        self._steps, self._seconds = 0, []
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def before_step(self) -> None:
        """Start the clock of a step that counts."""
        if not self.settled and self._steps >= WARM_UP:
            self._wait()
            self._started = time.perf_counter()

    def after_step(self, objects: int, more: int) -> None:
        """Stop the clock, and change `size` if enough is known.

        Args:
            objects: that took the step.
            more: objects that could join.
        """
        if self.settled:
            return
        self._steps += 1
        if self._steps <= WARM_UP:
            return
        self._wait()
        self._seconds.append(time.perf_counter() - self._started)
        if len(self._seconds) >= STEPS and sum(self._seconds) >= SECONDS:
            self._decide(objects, more, objects / statistics.median(self._seconds))

    def limit(self, objects: int) -> None:
        """There is memory for so many and no more."""
        self.settled, self.size = True, max(1, objects)

    def _decide(self, objects: int, more: int, rate: float) -> None:
        self.tried.append({"objects": objects, "steps_per_second": rate, "bytes": self._used()})
        best = self.tried[0]
        for each in self.tried[1:]:
            if each["steps_per_second"] > WORTH * best["steps_per_second"]:
                best = each
        behind = len(self.tried) - 1 - self.tried.index(best)
        if behind < PATIENCE and more and objects == self.size and 2 * objects <= MOST and self._would_fit():
            self.size = 2 * objects
        else:
            self.settled, self.size = True, int(best["objects"])

    def _would_fit(self) -> bool:
        """Whether twice as many objects fit, if each takes as much as the last ones took."""
        if len(self.tried) < 2:
            return True
        before, now = self.tried[-2:]
        each = max(0.0, (now["bytes"] - before["bytes"]) / (now["objects"] - before["objects"]))
        return now["bytes"] + each * now["objects"] < FILLED * self._limit()

    def _used(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def _limit(self) -> float:
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return free + torch.cuda.memory_reserved(self.device)
        return self._used() + os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
