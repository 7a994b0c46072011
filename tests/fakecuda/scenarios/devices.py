"""Two devices in one process: each has its graph, whichever device is current."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import steps

from .. import runs
from ..device import launch

CASES = (("cuda:0", 0), ("cuda:1", 1), ("cuda:1", 0))


def check_stream() -> None:
    """A kernel is refused on a stream of another device than the current one."""
    stream = torch.cuda.Stream(1).cuda_stream
    with torch.cuda.device(1):
        launch("kernel", stream)
    try:
        launch("kernel", stream)
    except RuntimeError:
        return
    raise AssertionError("a kernel goes to a stream of another device than the current one")


def run() -> dict[str, Any]:
    """Raises AssertionError where a device's step is not recorded as the first device's is."""
    check_stream()
    assert torch.cuda.device_count() == 2, f"there are {torch.cuda.device_count()} devices"
    found, first = [], None
    for name, current in CASES:
        torch.cuda.set_device(current)
        s = runs.session()
        s.device = torch.device(name)
        before = torch.cuda.memory_allocated(1 - s.device.index)
        _, captured = runs.capture(runs.start(s, steps.stand_in(s)))
        first = first or captured.nodes
        assert captured.nodes == first, f"the graph of {name} is not that of {CASES[0][0]}"
        assert torch.cuda.current_device() == current, f"device {torch.cuda.current_device()} is current afterwards"
        grown = torch.cuda.memory_allocated(1 - s.device.index) - before
        assert grown <= 0, f"a run on {name} takes {grown} bytes of the other device"
        found.append({"device": name, "current_device": current, "nodes": captured.nodes.total()})
    return {"cases": found}
