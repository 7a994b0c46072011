"""The runtime itself: during a capture it refuses what a device would refuse, and nothing else."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import byref, c_int, c_size_t, c_void_p
from typing import Any, NamedTuple

GLOBAL, THREAD, RELAXED = range(3)  # cudaStreamCaptureMode
BLOCKING, NON_BLOCKING = range(2)  # whether the legacy stream waits for a stream
UNSUPPORTED, INVALIDATED, ISOLATION, IMPLICIT, CAPTURED_EVENT = 900, 901, 905, 906, 907  # cudaError_t
SIZE = c_size_t(64)
_cuda = ctypes.CDLL(None)


def made(function: Any, *arguments: Any) -> c_void_p:
    """What a function of the runtime makes and writes to its first argument."""
    found = c_void_p()
    error = function(byref(found), *arguments)
    assert error == 0, f"{function.__name__} fails: error {error}"
    return found


def elsewhere(call: Callable[[c_void_p], int], stream: c_void_p) -> int:
    """The same in another thread than the one that captures."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(call(stream)))
    thread.start()
    thread.join()
    return found[0]


def relaxed(call: Callable[[c_void_p], int], stream: c_void_p) -> int:
    """The same with the thread's own mode as PyTorch's allocator sets it."""
    mode = c_int(RELAXED)
    _cuda.cudaThreadExchangeStreamCaptureMode(byref(mode))
    error = call(stream)
    _cuda.cudaThreadExchangeStreamCaptureMode(byref(mode))
    return error


def allocate(_: c_void_p) -> int:
    return _cuda.cudaMalloc(byref(c_void_p()), SIZE)


def event_of(stream: c_void_p | None) -> c_void_p:
    """An event, recorded."""
    event = made(_cuda.cudaEventCreate)
    _cuda.cudaEventRecord(event, stream)
    return event


class Case(NamedTuple):
    """A call during a capture.

    Args:
        name: what is called.
        call: does it, given the stream that captures; returns CUDA's error.
        error: which it has to be; 0 for none.
        mode: of the capture.
        flags: of the stream.
    """

    name: str
    call: Callable[[c_void_p], int]
    error: int
    mode: int = THREAD
    flags: int = NON_BLOCKING


def cases() -> list[Case]:
    """All of them; memory is made before any capture."""
    device, pinned = made(_cuda.cudaMalloc, SIZE), made(_cuda.cudaHostAlloc, SIZE, 0)
    pageable = ctypes.create_string_buffer(SIZE.value)
    return [
        Case("allocating", allocate, UNSUPPORTED),
        Case("allocating", allocate, UNSUPPORTED, GLOBAL),
        Case("allocating in a relaxed capture", allocate, 0, RELAXED),
        Case("allocating in another thread", lambda s: elsewhere(allocate, s), 0),
        Case("allocating in another thread", lambda s: elsewhere(allocate, s), UNSUPPORTED, GLOBAL),
        Case("allocating as PyTorch does", lambda s: relaxed(allocate, s), 0, GLOBAL),
        Case("freeing", lambda s: _cuda.cudaFree(device), UNSUPPORTED),
        Case("a pageable copy", lambda s: _cuda.cudaMemcpyAsync(device, pageable, SIZE, 1, s), UNSUPPORTED),
        Case("a pinned copy", lambda s: _cuda.cudaMemcpyAsync(device, pinned, SIZE, 1, s), 0),
        Case("waiting for its stream", _cuda.cudaStreamSynchronize, UNSUPPORTED),
        Case("waiting for its stream", _cuda.cudaStreamSynchronize, UNSUPPORTED, RELAXED),
        Case("waiting for the device", lambda s: _cuda.cudaDeviceSynchronize(), UNSUPPORTED, RELAXED),
        Case("asking for its event", lambda s: _cuda.cudaEventQuery(event_of(s)), CAPTURED_EVENT, RELAXED),
        Case("waiting for other work", lambda s: _cuda.cudaStreamWaitEvent(s, event_of(None), 0), ISOLATION),
        Case("waiting for its own work", lambda s: _cuda.cudaStreamWaitEvent(s, event_of(s), 0), 0),
        Case("the legacy stream", lambda s: _cuda.fake_launch(None, b"kernel"), IMPLICIT, flags=BLOCKING),
        Case("the legacy stream", lambda s: _cuda.fake_launch(None, b"kernel"), 0),
        Case("a kernel", lambda s: _cuda.fake_launch(s, b"kernel"), 0),
    ]


def run() -> dict[str, Any]:
    """Raises AssertionError where a call is refused that should not be, or the other way round."""
    tried = cases()
    for case in tried:
        stream = made(_cuda.cudaStreamCreateWithPriority, case.flags, 0)
        assert _cuda.cudaStreamBeginCapture(stream, case.mode) == 0
        error, graph = case.call(stream), c_void_p()
        ended = _cuda.cudaStreamEndCapture(stream, byref(graph))
        _cuda.cudaGetLastError()
        where = f"{case.name}, mode {case.mode}"
        assert error == case.error, f"{where}: error {error}, not {case.error}"
        expected = INVALIDATED if case.error else 0
        assert ended == expected, f"{where}: the capture ends with error {ended}, not {expected}"
    return {"cases": len(tried)}
