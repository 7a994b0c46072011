"""CUDA graphs: a step recorded once and replayed with no work on the host."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP = 3
"""Calls before a capture: they compile kernels, choose algorithms, and find out what fits into memory."""


def capture(function: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Record a function that was called `WARM_UP` times before, without running it; the result replays it.

    Raises:
        RuntimeError: something in it cannot be captured, such as waiting for the device.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile.
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        function()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay
