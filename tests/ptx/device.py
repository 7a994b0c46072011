"""A device that is not there: Triton specializes, compiles and launches as for a GPU, and the PTX runs in the emulator.

Tensors stay on the CPU, where the kernels' pointers reach them.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel

from .counts import Counts
from .machine import Kernel
from .memory import GlobalMemory, Region
from .program import parse

LAUNCHES: dict[str, int] = {}
"""How often every kernel ran."""
COUNTS: dict[str, Counts] | None = None
"""What every kernel executed, where a dictionary stands here to collect it."""
_kernels: dict[str, Kernel] = {}  # by Triton's hash


class Driver:
    """What Triton asks of a driver before it launches.

    Args:
        arch: 80, 90 or 100 (times ten the compute capability).
    """

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    @staticmethod
    def is_active() -> bool:
        return True


class Launcher:
    """Stands where Triton keeps the function that starts a kernel."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        if compiled.hash not in _kernels:
            _kernels[compiled.hash] = Kernel(parse(compiled.asm["ptx"]))
        self.kernel = _kernels[compiled.hash]

    def __call__(self, x: int, y: int, z: int, *rest: Any) -> None:
        """`rest` ends with the kernel's arguments, compile-time constants included."""
        kinds = list(self.compiled.src.signature.values())
        numbers, ends, names = [], {}, {}
        arguments = zip(self.compiled.src.signature, kinds, rest[-len(kinds) :], strict=True)
        for name, kind, value in (leaf for argument in arguments for leaf in flatten(*argument)):
            if kind == "constexpr":
                continue
            if not kind.startswith("*"):
                numbers.append(float(value) if kind.startswith("fp") else int(value))
                continue
            start = value.data_ptr()
            numbers.append(start)
            if value.numel():
                last = sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
                ends[start] = max(ends.get(start, 0), start + (last + 1) * value.element_size())
                names.setdefault(start, []).append(name)
        memory = GlobalMemory([Region(start, end, "/".join(names[start])) for start, end in ends.items()])
        LAUNCHES[self.compiled.name] = LAUNCHES.get(self.compiled.name, 0) + 1
        self.kernel.counts = None if COUNTS is None else COUNTS.setdefault(self.compiled.name, Counts())
        self.kernel.launch((x, y, z), numbers, memory, self.compiled.metadata.shared)


def flatten(name: str, kind: Any, value: Any) -> Iterator[tuple[str, str, Any]]:
    """An argument, or the members of a tuple."""
    if not isinstance(kind, tuple):
        yield name, kind, value
        return
    for i, (inner, member) in enumerate(zip(kind, value, strict=True)):
        yield from flatten(f"{name}[{i}]", inner, member)


def install(arch: int = 90) -> None:
    """Make Triton believe in one device, and run what it launches there; before a kernel is launched.

    Raises:
        RuntimeError: this Triton starts kernels in another way than 3.6 to 3.9 do.
    """
    if not hasattr(CompiledKernel, "_init_handles"):
        raise RuntimeError(
            f"Triton {triton.__version__} starts kernels in a way that tests/ptx/device.py does not know"
        )

    def start(self: Any) -> None:
        if getattr(self, "_run", None) is None:
            self._run = Launcher(self)

    triton.knobs.runtime.interpret = False
    triton.runtime.driver.set_active(Driver(arch))
    CompiledKernel._init_handles = start


def load_kernels() -> None:
    """Import every kernel as code to compile, where the tests would have the interpreter's."""
    os.environ.pop("TRITON_INTERPRET", None)
    package = importlib.import_module("sjc_fast.kernels")
    for module in pkgutil.walk_packages(package.__path__, "sjc_fast.kernels."):
        importlib.import_module(module.name)
    os.environ["TRITON_INTERPRET"] = "1"  # so that the renderer may be asked for Triton's code without a GPU
