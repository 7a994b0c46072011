"""CUDA graphs: a step recorded once and replayed with no work on the host."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

WARM_UP = 3
"""Calls before a capture: they compile kernels, choose algorithms, and find out what fits into memory."""


def capture(function: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Record a function that was called `WARM_UP` times before, without running it; the result replays it.

    A capture that fails leaves stream, allocator and random generator as they were.

    Raises:
        RuntimeError: something in it cannot be captured, such as waiting for the device.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        index = torch.cuda.current_device()
        pool = torch.cuda.graph_pool_handle()
        # Other threads may use the device meanwhile. The outer stream is the one that is current afterwards, also
        # where the graph's own exit raises before it puts that back.
        recording = torch.cuda.graph(graph, pool=pool, stream=_stream(index), capture_error_mode="thread_local")
        try:
            with torch.cuda.stream(torch.cuda.current_stream()), recording:
                function()
        except BaseException:
            _abandon(pool, index)
            raise

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


@functools.cache
def _stream(index: int) -> torch.cuda.Stream:
    """The stream that a device's steps are recorded on; PyTorch's default is one stream of the first device used."""
    return torch.cuda.Stream(index)


def _abandon(pool: tuple[int, int], index: int) -> None:
    """Undo what a failed capture leaves behind where it could not be ended in an orderly way (PyTorch 2.11).

    An open pool keeps the allocator from ever giving memory back, and a generator that believes in a capture refuses
    to draw.
    """
    try:
        torch._C._cuda_endAllocateToPool(index, pool)  # pyright: ignore[reportPrivateUsage]
    except RuntimeError:  # it was ended
        return
    torch._C._cuda_releasePool(index, pool)  # pyright: ignore[reportPrivateUsage]
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())
