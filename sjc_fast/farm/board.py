"""What everybody may know of a farm: an actor that workers tell of their progress, and people ask."""

from __future__ import annotations

import time
from typing import Any

#: By which it is found.
NAME, NAMESPACE = "board", "sjc-fast"


class Board:
    """Objects by name and how they stand, and steps taken in all.

    Args:
        names: of all objects.
        steps: that they take in all.
        output: where they go.
    """

    def __init__(self, names: list[str], steps: int, output: str) -> None:
        self._objects = dict.fromkeys(names, "waiting")
        self._steps, self._total, self._output = 0, steps, output
        self._started, self._workers = time.time(), 0

    def tell(self, news: dict[str, Any]) -> None:
        """Hear of progress: steps taken, and how the object of that name stands."""
        self._steps += news.get("steps", 0)
        if "name" in news:
            self._objects[news["name"]] = news["status"]
        self._workers = news.get("workers", self._workers)

    def read(self) -> dict[str, Any]:
        """All of it."""
        count: dict[str, int] = {}
        for status in self._objects.values():
            count[status] = count.get(status, 0) + 1
        return {
            "output": self._output,
            "workers": self._workers,
            "objects": count,
            "running": [name for name, status in self._objects.items() if status == "running"],
            "steps": min(self._steps, self._total),  # those that were taken twice, after a loss, count twice
            "total_steps": self._total,
            "seconds": time.time() - self._started,
        }
