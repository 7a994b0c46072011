"""What finished runs left, so that an experiment goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


class RunCache:
    """Rows of finished runs, a line each in a file, by what decides them.

    Args:
        path: of the file; a line that was cut off is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.kept = path, dict[str, Rows]()
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
                self.kept[entry["run"]] = entry["rows"]
            except (ValueError, KeyError, TypeError):
                continue

    def put(self, run: str, rows: Rows) -> None:
        """Keep a run."""
        self.kept[run] = rows
        with self.path.open("a") as file:
            file.write(json.dumps({"run": run, "rows": rows}) + "\n")
