"""What every section of the GPU script needs: device, sizes, clock, results so far, and the time that is left."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported

from sjc_fast.rendering.checks import make_field
from sjc_fast.scene.cameras import ring

from .device import Clock
from .report import environment


class Session:
    """One call of the script.

    Args:
        small: toy sizes; always so without a GPU.
        output: where the JSON goes.
        budget: seconds; sections stop starting new measurements after this.
        once: call everything once and time nothing.
    """

    def __init__(self, small: bool, output: Path, budget: float = 500.0, *, once: bool = False) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.small = small or self.device.type == "cpu"
        self.output, self.once = output, once
        self.end = self.deadline = time.monotonic() + budget
        self.clock = Clock(self.device, once)
        self.result: dict[str, Any] = {"environment": environment(), "small": self.small}
        if self.device.type == "cuda":
            p = torch.cuda.get_device_properties(0)
            self.result["properties"] = {
                "sms": p.multi_processor_count,
                "memory": p.total_memory,
                "sm": [p.major, p.minor],
            }

    def begin(self) -> None:
        """A section begins: it may take half of the time that is left."""
        now = time.monotonic()
        self.deadline = min(self.end, now + max(20.0, (self.end - now) / 2))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Early training, and late."""
        return ("solid",) if self.small else ("fog", "solid")

    @property
    def left(self) -> float:
        """Seconds that the section may still take."""
        return self.deadline - time.monotonic()

    @property
    def late(self) -> bool:
        return self.left < 0

    def save(self) -> None:
        """Write what there is; whole, also where the process is killed meanwhile."""
        if self.once:
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        partial = self.output.with_name(f"{self.output.name}.tmp")
        partial.write_text(json.dumps(self.result, indent=1) + "\n")
        partial.replace(self.output)

    def field(self, kind: str, resolution: int, channels: int = 4):
        return make_field(kind, (resolution,) * 3, channels).to(self.device)

    def cameras(self, views: int):
        return ring(views, 20.0, 1.5, 55.0).to(self.device)
