"""The step of Stable Diffusion 1.5's shape with the network through torch.compile: nodes, and how long it takes."""

from __future__ import annotations

import time
from typing import Any

from benchmarks import steps

from .. import runs
from ..kinds import by_kind
from ..replacements import replace_for_compilation


def run() -> dict[str, Any]:
    replace_for_compilation()
    s = runs.session(small=False)
    trainer = runs.start(s, steps.stand_in(s, compiled=True))
    began = time.monotonic()
    _, captured = runs.capture(trainer)
    return {
        "seconds_until_captured": time.monotonic() - began,
        "nodes": captured.nodes.total(),
        "kinds": by_kind(captured.nodes),
        "bytes": runs.memory(),
    }
