"""The Python side of a device that is not there: what PyTorch does not launch through the runtime is counted here.

cuDNN's convolution, the fused attentions and Triton's launches become one name each, and return tensors of the right
shape and type. Their numbers are never written.
"""

from __future__ import annotations

import ctypes
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

_runtime = ctypes.CDLL(None)  # runtime.cpp, which was preloaded
_library = torch.library.Library("aten", "IMPL")


@dataclass(frozen=True)
class Counts:
    """What happened since counts were read last, and the last graph.

    Args:
        launches: kernels, copies and graphs that were really started, by name.
        calls: of the runtime, by name: allocations, waiting, captures.
        nodes: of the graph whose capture ended last, by name.
    """

    launches: Counter[str]
    calls: Counter[str]
    nodes: Counter[str]

    @property
    def waits(self) -> int:
        """Calls that wait for the device."""
        return sum(n for name, n in self.calls.items() if "Synchronize" in name or name == "cudaMemcpy")


def counts() -> Counts:
    """The counts, which start again."""
    found = Counts(*(_read(which) for which in range(3)))
    _runtime.fake_reset()
    return found


def _read(which: int) -> Counter[str]:
    room = _runtime.fake_read(which, None, 0) + 1
    buffer = ctypes.create_string_buffer(room)
    _runtime.fake_read(which, buffer, room)
    rows = (line.split("\t", 1) for line in buffer.value.decode().splitlines())
    return Counter({name: int(number) for number, name in rows})


def install() -> None:
    """Put everything into place, before anything is compiled or launched.

    Raises:
        RuntimeError: the runtime was not preloaded.
    """
    if not hasattr(_runtime, "fake_read"):
        raise RuntimeError("tests/fakecuda's runtime is not preloaded: use python -m tests.fakecuda")
    _runtime.fake_read.restype = ctypes.c_size_t
    _runtime.fake_read.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    _runtime.fake_launch.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    _runtime.fake_unsafe.argtypes = [ctypes.c_char_p]
    torch.cuda.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that operators are overridden is meant
        _library.impl("cudnn_convolution", _convolution, "CUDA")
        for kind in ("flash", "efficient", "cudnn"):
            _library.impl(f"_scaled_dot_product_{kind}_attention", globals()[f"_{kind}"], "CUDA")
    driver.set_active(Driver())


def launch(name: str, stream: int | None = None) -> None:
    """Give a device's current stream, or another, something to do.

    Raises:
        RuntimeError: a capture forbids it, or failed before; or the stream is another device's.
    """
    if stream is None:
        stream = torch.cuda.current_stream().cuda_stream
    error = _runtime.fake_launch(stream, name.encode())
    if error:
        _runtime.cudaGetLastError()  # or PyTorch's next call would report it too
        raise RuntimeError(f"{name} cannot be launched: CUDA error {error}")


def _convolution(x: Tensor, weight: Tensor, padding: Any, stride: Any, dilation: Any, groups: int, *_: bool) -> Tensor:
    """cuDNN's, without its workspace, whose size only cuDNN knows."""
    sides = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, k, p, s, d in zip(x.shape[2:], weight.shape[2:], padding, stride, dilation, strict=True)
    ]
    last = any(t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight))
    layout = torch.channels_last if last else torch.contiguous_format
    launch("convolution")
    shape = (len(x), len(weight), *sides)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _attend(kind: str, query: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Answers [B, heads, L, numbers] as the kernels lay them out, the logarithm of their sums, and an empty seed."""
    launch(f"attention ({kind})")
    batch, heads, length, _ = query.shape
    answers = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
    sums = query.new_empty(batch, heads, length, dtype=torch.float32)
    return answers, sums, query.new_empty((), dtype=torch.int64)


def _flash(query: Tensor, key: Tensor, value: Tensor, *_: Any, scale: float | None = None) -> tuple[Any, ...]:
    answers, sums, seed = _attend("flash", query, value)
    return answers, sums, None, None, query.shape[2], key.shape[2], seed.new_empty(2), seed, query.new_empty(0)


def _efficient(query: Tensor, key: Tensor, value: Tensor, *_: Any, scale: float | None = None) -> tuple[Any, ...]:
    answers, sums, seed = _attend("efficient", query, value)
    return answers, sums, seed, seed


def _cudnn(query: Tensor, key: Tensor, value: Tensor, *_: Any, scale: float | None = None) -> tuple[Any, ...]:
    answers, sums, seed = _attend("cudnn", query, value)
    return answers, sums, None, None, query.shape[2], key.shape[2], seed, seed, query.new_empty(0)


class Driver:
    """What Triton asks of a driver; it compiles as for a device."""

    def __init__(self) -> None:
        self.utils, self.launcher_cls = Utilities(), Launcher

    def get_current_device(self) -> int:
        return torch.cuda.current_device()

    def get_current_stream(self, device: int) -> int:
        return torch.cuda.current_stream(device).cuda_stream

    def get_current_target(self) -> GPUTarget:
        major, minor = torch.cuda.get_device_capability()
        return GPUTarget("cuda", 10 * major + minor, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device())

    @staticmethod
    def is_active() -> bool:
        return True


class Utilities:
    """Loading of what was compiled."""

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """A module, a function, its registers and spills (not known), and the most threads of a block."""
        if _runtime.fake_unsafe(b"loading a module"):
            raise RuntimeError(f"{name} cannot be loaded during a capture")
        return 1, 1, 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        p = torch.cuda.get_device_properties(device)
        return {"max_shared_mem": p.shared_memory_per_block_optin, "multiprocessor_count": p.multi_processor_count}


class Launcher:
    """Stands where Triton keeps the function that starts a kernel."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.name = metadata.name

    def __call__(self, x: int, y: int, z: int, stream: int, *_: Any) -> None:
        launch(f"triton:{self.name}", stream)
