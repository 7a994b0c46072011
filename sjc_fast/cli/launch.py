"""`sjc-fast train --devices`: one process a device, started and watched."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError, setting
from ..runs.settings import pick_device
from . import LAUNCHED, LOST

#: The exit code of a process that was asked to stop: the others do so too, and the first one may take its time to save.
STOPPED = 130
#: Seconds for the others to end by themselves once one has ended, before they are killed.
GRACE = 5.0


def parse_devices(text: str) -> list[str]:
    """``0,1`` (CUDA devices), ``cuda:0,cuda:1`` or, to try it, ``cpu,cpu``.

    Raises:
        UserError: something else, or a device that is not here.
    """
    names = [f"cuda:{part}" if part.isdigit() else part for part in text.split(",")]
    if len(names) < 2 or not all(names):
        raise UserError(f"{setting('devices')} {text!r}: name two or more, such as 0,1")
    kinds = [pick_device(name) for name in names]
    repeated = kinds[0].type == "cuda" and len(set(map(str, kinds))) < len(kinds)
    if len({device.type for device in kinds}) > 1 or repeated or "auto" in names:
        raise UserError(f"{setting('devices')} {text!r}: name different devices of one kind, such as 0,1")
    return names


def launch(devices: list[str], arguments: list[str]) -> int:
    """Run ``sjc-fast train`` with the arguments once a device; its exit code.

    When one process ends badly the others are ended too, and one line says which it was.
    """
    with tempfile.TemporaryDirectory() as scratch:
        said = [Path(scratch, str(rank)) for rank in range(len(devices))]
        processes = [_start(rank, devices, arguments, said[rank]) for rank in range(len(devices))]
        with _forwarding(processes):
            first = _wait(processes)
        codes = [process.returncode for process in processes]
        if first is None:
            return max(codes)
        return _tell(first, codes[first], said[first])


def _start(rank: int, devices: list[str], arguments: list[str], said: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(len(devices)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": os.environ.get("MASTER_PORT") or _port(),
        LAUNCHED: "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // len(devices))),
    }
    os.environ["MASTER_PORT"] = environment["MASTER_PORT"]  # the same for all of them
    command = [sys.executable, "-m", "sjc_fast", "train", *arguments, "--device", devices[rank]]
    if rank == 0:
        return subprocess.Popen(command, env=environment)
    with said.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=file)


def _port() -> str:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all of them; the number of the one whose bad end ended the others, if there is one."""
    while True:
        codes = [process.poll() for process in processes]
        if all(code == 0 for code in codes):
            return None
        if all(code is not None for code in codes) or any(code not in (None, 0, STOPPED) for code in codes):
            break
        time.sleep(0.05)
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.05)
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
    codes = [process.returncode for process in processes]
    causes = [i for i, code in enumerate(codes) if code not in (0, LOST, STOPPED)]
    causes = causes or [i for i, code in enumerate(codes) if code == STOPPED]
    return causes[0] if causes else codes.index(LOST)


def _tell(rank: int, code: int, said: Path) -> int:
    """Say which process ended, unless it was the first, which spoke for itself."""
    if code == STOPPED or (rank == 0 and code > 0 and code != LOST):
        return code
    lines = said.read_text(errors="replace").strip().splitlines() if said.exists() else []
    why = f"was killed (signal {-code})" if code < 0 else lines[-1] if lines else f"ended with code {code}"
    go_on = "go on with --resume from the last checkpoint"
    start = "" if rank else "\n"  # the first one leaves its progress bar behind
    print(f"{start}sjc-fast: process {rank} of the run {why.removeprefix('sjc-fast: ')}; {go_on}", file=sys.stderr)
    return 1 if code < 0 else code


@contextlib.contextmanager
def _forwarding(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Ctrl-C reaches the processes by itself, a request to end through this one; both leave the waiting to them."""

    def forward(number: int, _: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
