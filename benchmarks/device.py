"""Timing on a device, and the rates that floors are computed from, measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sjc_fast.kernels.options import OPTIONS
from sjc_fast.training import graphs

FLUSH = 256 << 20  # bytes written before a cold timing: more than any L2 cache
_INNER = 5  # replays between two events


class Clock:
    """Times functions on a device: with CUDA events around the replay of a graph, so that no host time is counted.

    Args:
        device: on a CPU a function is called once.
        once: so on any device, with no graph.
    """

    def __init__(self, device: torch.device, once: bool = False) -> None:
        self.device, self.once = device, once
        self.flush = torch.empty(FLUSH // 4 if device.type == "cuda" else 1, device=device)

    def samples(self, function: Callable[[], Any], repeats: int = 20) -> list[float]:
        """Seconds of a call with a warm L2 cache, `repeats` times."""
        return self.both(function, repeats, cold=False)["warm"]

    def both(self, function: Callable[[], Any], repeats: int = 20, cold: bool = True) -> dict[str, list[float]]:
        """Seconds of a call with a warm L2 cache and, if wanted, with an empty one.

        Warm, a few replays lie between two events, and one before them keeps the device busy while the host launches.
        """
        if self.once or self.device.type != "cuda":
            return {"warm": [self._host(function)]}
        replay = capture(function)
        found = {"warm": [self._events(replay, _INNER, replay) for _ in range(repeats)]}
        if cold:
            found["cold"] = [self._events(replay, 1, self.flush.zero_) for _ in range(repeats)]
        return found

    def _events(self, replay: Callable[[], Any], times: int, before: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before()
        start.record()
        for _ in range(times):
            replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / times

    def eager(self, function: Callable[[], Any], repeats: int = 5) -> list[float]:
        """Seconds of each call as a program meets them, host work and all."""
        if self.once or self.device.type != "cuda":
            return [self._host(function)]
        function()
        found = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            function()
            self.wait()
            found.append(time.perf_counter() - start)
        return found

    def loops(self, step: Callable[[], Any], repeats: int = 20) -> list[float]:
        """Seconds of each call of something that replays a graph itself, or of a program's step, host work and all."""
        if self.device.type != "cuda":
            return [self._host(step) for _ in range(repeats)]
        self.wait()
        return [self._events(step, _INNER, step) for _ in range(repeats)]

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _host(self, function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start


def capture(function: Callable[[], Any]) -> Callable[[], None]:
    """The function as a CUDA graph, after a warm-up on another stream that compiles everything."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(graphs.WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    return graphs.capture(function, torch.device("cuda"))


@triton.jit
def gather_kernel(
    grid, cells, out, count, row, plane, WIDE: tl.constexpr, REDUCE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Read (or add to) the eight corners of cells and do nothing else: WIDE numbers a voxel."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    base = tl.load(cells + i, mask, other=0)
    channel = tl.arange(0, WIDE)
    total = tl.zeros([BLOCK, WIDE], tl.float32)
    for c in tl.static_range(8):
        where = (base + c % 2 + c // 2 % 2 * row + c // 4 * plane)[:, None] * WIDE + channel
        if REDUCE:
            tl.atomic_add(grid + where, total + 1.0, mask[:, None], sem="relaxed")
        else:
            total += tl.load(grid + where, mask[:, None], other=0.0).to(tl.float32)
    if not REDUCE:
        tl.store(out + i, tl.sum(total, 1), mask)


def walk(resolution: int, rays: int, samples: int, device: torch.device, along: bool) -> Tensor:
    """Cells [rays x samples] (int32 base voxels) of straight walks at half-voxel steps, as rays make them.

    With `along`, neighboring numbers are neighbors on a ray (as on the lanes of the forward pass), else neighboring
    rays (as on those of the backward pass).
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.rand(3, generator=generator) + 0.3, dim=0)
    side = max(1, round(rays**0.5))
    pixel = torch.arange(rays)
    spread = torch.stack([pixel % side, pixel // side, torch.zeros(rays)], dim=1) / side * resolution * 0.5
    k = torch.arange(samples) % int(resolution * 0.8)
    position = spread[:, None] + 0.5 * k[None, :, None] * direction
    cell = position.long().clamp(0, resolution - 2)
    index = (cell[..., 2] * resolution + cell[..., 1]) * resolution + cell[..., 0]
    return (index if along else index.T).reshape(-1).int().contiguous().to(device)


def measure_rates(clock: Clock, resolution: int, count: int) -> dict[str, Any]:
    """Copy bandwidth (bytes/s), matmul rate (FLOP/s), and cells per second of eight-corner gathers and reductions."""
    device, samples = clock.device, max(1, count // 64)
    numbers = 1 << 28 if device.type == "cuda" else 1 << 12
    pair = torch.zeros(2, numbers, device=device)
    rates: dict[str, Any] = {"copy_bytes": 2 * 4 * numbers / median(clock.samples(lambda p=pair: p[1].copy_(p[0])))}
    del pair
    n = 8192 if device.type == "cuda" else 64
    x = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    rates["matmul_flops"] = 2 * n**3 / median(clock.samples(lambda: x @ x))
    block = 128 if device.type == "cuda" else 4096
    cases = [(f"{what}_{name}", what == "reduce", wide, kind)
             for what in ("gather", "reduce")
             for name, wide, kind in (("scalar", 1, torch.float32), ("vector", 4, torch.float32))]  # fmt: skip
    cases += [("gather_scalar_half", False, 1, torch.float16), ("gather_vector_half", False, 4, torch.float16)]
    walks = [walk(resolution, 64 * 64, max(1, samples // 64), device, along) for along in (True, False)]
    for name, reduce, wide, kind in cases:
        grid = torch.zeros(resolution**3 * wide, device=device, dtype=kind)
        best = 0.0
        for cells in walks:
            out = torch.empty(len(cells), device=device)

            def launch(grid=grid, cells=cells, out=out, wide=wide, reduce=reduce):
                gather_kernel[(triton.cdiv(len(cells), block),)](
                    grid, cells, out, len(cells), resolution, resolution**2,
                    WIDE=wide, REDUCE=reduce, BLOCK=block, **(OPTIONS | {"num_warps": 4}),
                )  # fmt: skip

            best = max(best, len(cells) / median(clock.samples(launch)))
        rates[f"{name}_cells"] = best
    return rates
