"""Memory of the emulated device: arguments' tensors where they lie, and shared memory that knows who touched it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np


class Fault(Exception):
    """What a device would refuse, or what would have no defined result on one."""


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether bits differ by more than the rounding of float32 numbers.

    Triton lets several threads write what each has computed for itself, and sums may have other orders in each.
    """
    a, b = (np.ascontiguousarray(x).view(np.uint8).reshape(-1) for x in (a, b))
    if len(a) % 4:
        return bool((a != b).any())
    bits, (x, y) = a.view(np.uint32) != b.view(np.uint32), (v.view(np.float32).astype(np.float64) for v in (a, b))
    sizes = np.maximum(np.abs(x), np.abs(y))
    scale = np.nan_to_num(sizes, posinf=0.0).max(initial=0.0)  # of what the sums are made of, about
    near = (np.abs(x - y) <= 1e-3 * sizes + 2e-6 * scale) | (np.isnan(x) & np.isnan(y)) | (x == y)
    return bool((bits & ~near).any())


@dataclass
class Region:
    """An argument's memory.

    Attributes:
        start, end: addresses.
        name: of the arguments that lie there.
        writers: for every two bytes, which CTA of the launch wrote them (plainly), plus one; None until one does.
    """

    start: int
    end: int
    name: str
    writers: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.base = self.start & ~15
        self.bytes = (ctypes.c_uint8 * (-(-(self.end - self.base) // 16) * 16)).from_address(self.base)

    def view(self, kind: np.dtype) -> np.ndarray:
        """All of it as numbers of one type, from `base` on."""
        return np.frombuffer(self.bytes, kind)


class GlobalMemory:
    """What a launch may read and write: its arguments, and nothing else.

    Reads and writes take addresses [n] of numbers of one type; accesses outside of every argument, misaligned ones, and
    two CTAs that write different values to one place or read what another wrote are faults.
    """

    def __init__(self, regions: list[Region]) -> None:
        self.regions = sorted(regions, key=lambda region: region.start)
        self.starts = np.array([region.start for region in self.regions], np.uint64)

    def _parts(self, addresses: np.ndarray, size: int):
        """Pairs of a region and the accesses that fall into it."""
        if len(addresses) == 0:
            return
        if bool((addresses % np.uint64(size)).any()):
            raise Fault(f"an access of {size} bytes is misaligned")
        if not self.regions:
            raise Fault("an access, and there is no argument in memory")
        found = np.searchsorted(self.starts, addresses, side="right").astype(np.int64) - 1
        for index in np.unique(found):
            region, which = self.regions[max(index, 0)], np.flatnonzero(found == index)
            there = addresses[which]
            if index < 0 or int(there.max()) + size > region.end:
                bad = int(there.min() if index < 0 else there.max())
                raise Fault(
                    f"an access at {bad - region.start:+} of {region.name}, of {region.end - region.start} bytes"
                )
            yield region, which, ((there - np.uint64(region.base)) // np.uint64(size)).astype(np.int64)

    def load(self, addresses: np.ndarray, kind: np.dtype, ctas: np.ndarray) -> np.ndarray:
        """Numbers at addresses, read by threads of CTAs."""
        out = np.empty(len(addresses), kind)
        for region, which, places in self._parts(addresses, kind.itemsize):
            out[which] = region.view(kind)[places]
            if region.writers is not None:
                writers = region.writers[places * kind.itemsize // 2]
                if bool(((writers != 0) & (writers != ctas[which] + 1)).any()):
                    raise Fault(f"{region.name} is read by one CTA and written by another")
        return out

    def store(self, addresses: np.ndarray, values: np.ndarray, ctas: np.ndarray) -> None:
        """Write numbers to addresses, by threads of CTAs."""
        for region, which, places in self._parts(addresses, values.itemsize):
            there, new = region.view(values.dtype), values[which]
            if region.writers is None:
                region.writers = np.zeros(len(region.bytes) // 2, np.int32)
            marks = places * values.itemsize // 2
            before = region.writers[marks]
            other = (before != 0) & (before != ctas[which] + 1)
            if differ(there[places][other], new[other]):
                raise Fault(f"two CTAs write different values to {region.name}")
            there[places] = new
            if differ(there[places], new):
                raise Fault(f"two threads write different values to {region.name} at once")
            for part in range(max(1, values.itemsize // 2)):
                region.writers[marks + part] = ctas[which] + 1

    def reduce(self, addresses: np.ndarray, values: np.ndarray, operation: np.ufunc) -> None:
        """Combine numbers with what is there, one after the other."""
        for region, which, places in self._parts(addresses, values.itemsize):
            operation.at(region.view(values.dtype), places, values[which])


class SharedMemory:
    """Of the CTAs of one launch, with the last touch of every byte: a missing barrier is a fault.

    A write is ordered before another thread's access by a barrier of the CTA, or within a warp by one of the warp.

    Args:
        ctas, threads: how many, and of how many threads each.
        size: bytes a CTA.
    """

    def __init__(self, ctas: int, threads: int, size: int) -> None:
        self.bytes = np.zeros((ctas, size), np.uint8)
        self.cta_epoch = np.zeros(ctas, np.int32)
        self.warp_epoch = np.zeros((ctas, -(-threads // 32)), np.int32)
        #: For writes and reads: the thread and the warp that touched a byte last (-1: none; -2: several), and when.
        self.touch = {kind: np.full((4, ctas, size), -1, np.int32) for kind in ("write", "read")}

    def _places(self, addresses: np.ndarray, size: int) -> np.ndarray:
        if bool((addresses % size).any()):
            raise Fault(f"a shared access of {size} bytes is misaligned")
        if len(addresses) and int(addresses.max()) + size > self.bytes.shape[1]:
            raise Fault(f"a shared access at {int(addresses.max())} of {self.bytes.shape[1]} bytes")
        return addresses.astype(np.int64)[:, None] + np.arange(size)

    def _check(self, kind: str, ctas: np.ndarray, lanes: np.ndarray, places: np.ndarray) -> None:
        thread, warp, cta_then, warp_then = self.touch[kind][:, ctas[:, None], places]
        mine = (lanes // 32)[:, None]
        ordered = cta_then < self.cta_epoch[ctas][:, None]
        ordered |= (warp == mine) & (warp_then < self.warp_epoch[ctas, lanes // 32][:, None])
        if bool(((thread != -1) & (thread != lanes[:, None]) & ~ordered).any()):
            raise Fault(f"a {kind} of shared memory by another thread is not ordered by a barrier")

    def _mark(self, kind: str, ctas: np.ndarray, lanes: np.ndarray, places: np.ndarray) -> None:
        where = (np.broadcast_to(ctas[:, None], places.shape), places)
        thread, warp, cta_then, warp_then = self.touch[kind]
        mine = (lanes[:, None], (lanes // 32)[:, None])
        now = (self.cta_epoch[ctas][:, None], self.warp_epoch[ctas, lanes // 32][:, None])
        # Reads since the same barriers add up: by one thread, by one warp, or by several.
        joined = (kind == "read") & (cta_then[where] == now[0]) & (warp_then[where] == now[1]) & (thread[where] != -1)
        new = [np.where(joined & (was[where] != me), -2, me) for was, me in zip((thread, warp), mine, strict=True)]
        thread[where], warp[where] = new
        if kind == "read":  # also several at once, of whom an assignment keeps one
            for marks, me in zip((thread, warp), mine, strict=True):
                others = marks[where] != me
                marks[tuple(w[others] for w in where)] = -2
        cta_then[where], warp_then[where] = (np.broadcast_to(n, places.shape) for n in now)

    def load(self, addresses: np.ndarray, kind: np.dtype, ctas: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """Numbers at addresses of the CTAs' own memory."""
        places = self._places(addresses, kind.itemsize)
        self._check("write", ctas, lanes, places)
        self._mark("read", ctas, lanes, places)
        return np.ascontiguousarray(self.bytes[ctas[:, None], places]).view(kind)[:, 0]

    def store(self, addresses: np.ndarray, values: np.ndarray, ctas: np.ndarray, lanes: np.ndarray) -> None:
        """Write numbers."""
        places = self._places(addresses, values.itemsize)
        for kind in ("write", "read"):
            self._check(kind, ctas, lanes, places)
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
        self.bytes[ctas[:, None], places] = raw
        if differ(self.bytes[ctas[:, None], places], raw):
            raise Fault("two threads write different values to one place of shared memory at once")
        self._mark("write", ctas, lanes, places)
