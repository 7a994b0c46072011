"""What every section of the GPU script needs: device, sizes, clock, results so far, and the time that is left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from sjc_fast.rendering.checks import make_field
from sjc_fast.scene.cameras import ring

from .device import Clock
from .report import environment

SECONDS = 500  # sections stop starting new measurements after this


class Session:
    """One call of the script.

    Args:
        small: toy sizes; always so without a GPU.
        output: where the JSON goes.
    """

    def __init__(self, small: bool, output: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.small = small or self.device.type == "cpu"
        self.output, self.start = output, time.monotonic()
        self.clock = Clock(self.device)
        self.result: dict[str, Any] = {"environment": environment(), "small": self.small}
        if self.device.type == "cuda":
            p = torch.cuda.get_device_properties(0)
            self.result["properties"] = {
                "sms": p.multi_processor_count,
                "memory": p.total_memory,
                "sm": [p.major, p.minor],
            }

    @property
    def kinds(self) -> tuple[str, ...]:
        """Early training, and late."""
        return ("solid",) if self.small else ("fog", "solid")

    @property
    def left(self) -> float:
        """Seconds."""
        return SECONDS - (time.monotonic() - self.start)

    @property
    def late(self) -> bool:
        return self.left < 0

    def save(self) -> None:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(self.result, indent=1) + "\n")

    def field(self, kind: str, resolution: int, channels: int = 4):
        return make_field(kind, (resolution,) * 3, channels).to(self.device)

    def cameras(self, views: int):
        return ring(views, 20.0, 1.5, 55.0).to(self.device)
