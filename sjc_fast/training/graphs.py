"""CUDA graphs: a step recorded once and replayed with no work on the host."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch

LOG = logging.getLogger(__name__)
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


class Graphed:
    """Something whose step is taken eagerly at first, which is the warm-up, and then recorded and replayed.

    Args:
        device: where the steps are taken.
        graph: whether they may be recorded.
    """

    def __init__(self, device: torch.device, graph: bool) -> None:
        self.device, self.graph = device, graph
        self._replay: Callable[[], None] | None = None
        self._eager = 0  # steps taken without the graph since it became possible

    def _advance(self) -> None:
        """What a graph holds: no number on the host decides anything here."""
        raise NotImplementedError

    def _take_step(self) -> None:
        """The next step, by whichever way it is its turn."""
        if self.graph and self._replay is None and self._eager >= WARM_UP:
            self._capture()
        if self._replay is not None:
            self._replay()
        else:
            self._advance()
            self._eager += 1

    def _capture(self) -> None:
        try:
            self._replay = capture(self._advance, self.device)
        except RuntimeError as error:
            self.graph = False
            LOG.warning("the steps run without a CUDA graph: %s", " ".join(str(error).split())[:200])


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
