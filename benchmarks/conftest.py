"""What the pytest benchmarks share: timing with the device awaited, floors, and the table of floors at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch

_ROWS: list[tuple[str, str, float, float]] = []  # group, row, floor and median in microseconds


@pytest.fixture(scope="session")
def bandwidth() -> Callable[[str], float]:
    """Bytes per second of a large copy on a device, measured once."""
    found: dict[str, float] = {}

    def measure(device: str) -> float:
        if device not in found:
            source = torch.zeros(1 << (28 if device == "cuda" else 25), device=device)
            target, taken = torch.empty_like(source), []
            for _ in range(7):
                _wait(device)
                start = time.perf_counter()
                target.copy_(source)
                _wait(device)
                taken.append(time.perf_counter() - start)
            found[device] = 2 * source.numel() * 4 / median(taken)
        return found[device]

    return measure


@pytest.fixture
def timed(benchmark: Any, bandwidth: Callable[[str], float], request: Any) -> Callable[..., None]:
    """`timed(group, device, moved, job)`: time a job that has to move so many bytes."""

    def run(group: str, device: str, moved: int, job: Callable[[], Any]) -> None:
        benchmark.group = group

        def awaited() -> None:
            job()
            _wait(device)

        awaited()  # compiles
        benchmark(awaited)
        floor = 1e6 * moved / bandwidth(device)
        benchmark.extra_info |= {"device": device, "bytes": moved, "floor_us": floor}
        if benchmark.stats:
            taken = 1e6 * benchmark.stats.stats.median
            benchmark.extra_info["share_of_floor"] = floor / taken
            _ROWS.append((group, request.node.callspec.id, floor, taken))

    return run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Floors and the share of them that was reached."""
    if _ROWS:
        terminalreporter.section("floors: bytes over the copy bandwidth of this run")
    for group, row, floor, taken in sorted(_ROWS):
        line = f"{group:48} {row:44} floor {floor:9.1f} us, median {taken:11.1f} us, {100 * floor / taken:5.1f}%"
        terminalreporter.write_line(line)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
