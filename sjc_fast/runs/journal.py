"""What a run writes down about itself as it goes: measurements, a timeline of previews, versions and times."""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import UserError
from ..storage.files import atomic
from .folder import RunFolder

if TYPE_CHECKING:
    from ..training.trainer import Trainer

#: Metrics that older runs wrote under another name.
FORMER_NAMES = {"score": "update_rms", "field": "field_sum"}
MOMENTS = 24  # previews kept
PREVIEW_WIDTH = 512


class Journal:
    """The files of one run folder that grow with the run. A resumed run goes on from where its checkpoint was.

    Args:
        folder: the run folder.
        steps: of the whole run.
        position: steps taken already.
    """

    def __init__(self, folder: RunFolder, steps: int, position: int) -> None:
        self.folder, self.steps, self.position = folder, steps, position
        folder.timeline.mkdir(exist_ok=True)
        rows = [row for row in read_metrics(folder) if row["step"] <= position]
        before = read_record(folder) if position else {}
        self._seconds: dict[str, float] = before.get("seconds", {}) if position else {}
        self._started = before.get("started") or datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._phase, self._since = "", time.monotonic()
        self.status = "failed"  # until it has ended well
        self.results: dict[str, Any] = {}
        """What there is to say about the result, for run.json."""
        with atomic(folder.metrics, "the measurements") as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for step, picture in folder.moments():
            if step > position:
                picture.unlink()
        self._file = folder.metrics.open("a", buffering=1)

    def phase(self, name: str) -> None:
        """What the time from now on is spent on."""
        now = time.monotonic()
        if self._phase:
            self.add(self._phase, now - self._since)
        self._phase, self._since = name, now

    def add(self, name: str, seconds: float) -> None:
        """Time spent on something, besides what was counted."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def measured(self, position: int, metrics: dict[str, float]) -> None:
        """A line for what a step measured."""
        spent = self._seconds.get("training", 0.0) + time.monotonic() - self._since
        self._file.write(json.dumps({"step": position, "seconds": round(spent, 3), **metrics}) + "\n")

    def preview(self, position: int, picture: Tensor) -> None:
        """Keep a preview, [3, H, W] in [0, 1], small, where the timeline has room for another."""
        import imageio.v3 as iio

        from ..export.pictures import to_bytes

        last = max((step for step, _ in self.folder.moments()), default=0)
        if position < self.steps and last and position - last < self.steps / MOMENTS:
            return
        height = round(picture.shape[-2] * PREVIEW_WIDTH / picture.shape[-1])
        small = interpolate(picture[None].float(), (height, PREVIEW_WIDTH), mode="area")[0]
        with atomic(self.folder.moment(position), "the preview") as partial:
            partial.write_bytes(iio.imwrite("<bytes>", to_bytes(small), extension=".jpg", quality=85))

    @contextlib.contextmanager
    def ending(self, trainer: Trainer, stopped: type[Exception], **where: str) -> Iterator[None]:
        """Write run.json when the block ends, however it does: "finished", "stopped" or "failed".

        Args:
            trainer: says how many steps were taken.
            stopped: the exception that means that the run was asked to stop.
            where: what the run took place on.
        """
        try:
            yield
            self.status = "finished"
        except stopped:
            self.status = "stopped"
            raise
        finally:
            self._close(trainer.position, where)

    def _close(self, position: int, where: dict[str, str]) -> None:
        self.phase("")
        self._file.close()
        record = {
            "status": self.status,
            "steps": position,
            "started": self._started,
            **where,
            "seconds": {name: round(seconds, 3) for name, seconds in self._seconds.items()},
            "versions": versions(),
            **self.results,
        }
        try:
            with atomic(self.folder.record, "the record") as partial:
                partial.write_text(json.dumps(record, indent=2) + "\n")
        except UserError:
            if self.status != "failed":  # else the first error is the one to be seen
                raise


def versions() -> dict[str, str]:
    """Of what decides a result."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("sjc-fast", "torch", "triton", "diffusers", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["cuda device"] = torch.cuda.get_device_name()
    return found


def read_metrics(folder: RunFolder) -> list[dict[str, float]]:
    """Every whole line of a run's measurements, oldest first."""
    try:
        lines = folder.metrics.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append({FORMER_NAMES.get(name, name): value for name, value in row.items()})
    return rows


def read_record(folder: RunFolder) -> dict[str, Any]:
    """A run's run.json; empty if there is none yet, or it is damaged."""
    try:
        record = json.loads(folder.record.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
