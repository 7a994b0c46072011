"""Runs a program: every CTA of a launch at once, a basic block at a time for the threads that have come to it.

Threads go on at the earliest block that any of them has come to, so that they meet again where their ways join; what a
warp does together waits for all of it. What a device leaves undefined, or would hang on, is a `Fault`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .counts import Counts
from .instructions import compile_instruction
from .memory import Fault, GlobalMemory, SharedMemory
from .program import Program

LANES = 1 << 13
"""Threads that are executed together, about."""
_WIDTHS = {"pred": np.bool_, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64}


class Threads:
    """Registers and places of a group of CTAs.

    Attributes:
        count: threads in all.
        cta, lane: of each thread, the CTA's number in the group and the thread's in the CTA.
        cta_of_launch: of each thread, the CTA's number in the launch.
        index, grid: of each thread's CTA in x, y, z, [3, count]; the launch's size, [3].
    """

    def __init__(self, program: Program, ctas: np.ndarray, grid: tuple[int, int, int], shared: int) -> None:
        self.program, self.grid = program, grid
        self.count = len(ctas) * program.threads
        self.cta = np.repeat(np.arange(len(ctas)), program.threads)
        self.lane = np.tile(np.arange(program.threads), len(ctas))
        self.cta_of_launch = ctas[self.cta].astype(np.int32)
        x, y = grid[:2]
        self.index = np.stack([ctas % x, ctas // x % y, ctas // (x * y)])[:, self.cta].astype(np.uint32)
        self.warp = self.cta * -(-program.threads // 32) + self.lane // 32  # one number for each in the group
        self.shared = SharedMemory(len(ctas), program.threads, shared)
        self.registers: dict[str, np.ndarray] = {}

    def register(self, name: str) -> np.ndarray:
        """Its bits in every thread; zero until it is written."""
        if name not in self.registers:
            prefix = name[1:].rstrip("0123456789")
            self.registers[name] = np.zeros(self.count, _WIDTHS[self.program.registers[prefix]])
        return self.registers[name]


class Kernel:
    """A program, ready to be launched.

    Args:
        program: from `program.parse`.

    Attributes:
        counts: where launches are counted, if anywhere.

    Raises:
        Unsupported: it holds an instruction that the emulator does not know.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.counts: Counts | None = None
        self.blocks = [[compile_instruction(i, program) for i in block.instructions] for block in program.blocks]

    def launch(
        self, grid: tuple[int, int, int], arguments: Sequence[int | float], memory: GlobalMemory, shared: int
    ) -> None:
        """Run it on a grid of CTAs.

        Args:
            grid: CTAs in x, y, z.
            arguments: numbers; pointers as addresses.
            memory: what they may point to.
            shared: bytes of shared memory a CTA.

        Raises:
            Fault: see the module.
        """
        names = [name for name, _ in self.program.parameters]
        self.parameters = dict(itertools.zip_longest(names, arguments, fillvalue=0))  # scratch memory is not used
        self.memory = memory
        total, together = grid[0] * grid[1] * grid[2], max(1, LANES // self.program.threads)
        for start in range(0, total, together):
            ctas = np.arange(start, min(total, start + together))
            if self.counts:
                self.counts.warps += len(ctas) * -(-self.program.threads // 32)
            with np.errstate(all="ignore"):
                self._run(Threads(self.program, ctas, grid, shared))

    def _run(self, threads: Threads) -> None:
        at = np.zeros(threads.count, np.int64)  # blocks
        done, waiting, held = (np.zeros(threads.count, bool) for _ in range(3))
        while not done.all():
            ready = ~(done | waiting | held)
            if not ready.any():
                if held.any():
                    raise Fault(f"a warp of {self.program.name} waits for threads that do not come")
                self._release(threads, at, done, waiting)
                continue
            block = int(at[ready].min())
            which = np.flatnonzero(~(done | waiting) & (at == block))
            if self.program.blocks[block].together:
                whole = np.bincount(threads.warp[which])[threads.warp[which]] == 32
                held[which] = ~whole
                which = which[whole]
                if len(which) == 0:
                    continue
            at[which] = block + 1
            if self.counts:
                self.counts.executed(block, len(self.blocks[block]), threads.warp[which])
            for instruction in self.blocks[block]:
                end = instruction(self, threads, which)
                if end is None:
                    continue
                kind, who = end
                if kind == "exit":
                    done[who] = True
                elif kind == "wait":
                    waiting[who] = True
                else:
                    at[who] = kind

    def _release(self, threads: Threads, at: np.ndarray, done: np.ndarray, waiting: np.ndarray) -> None:
        """Everybody waits: let those CTAs go on whose threads all wait at one barrier."""
        places = at.reshape(-1, self.program.threads)
        together = waiting.reshape(places.shape).all(axis=1) & (places == places[:, :1]).all(axis=1)
        active = ~done.reshape(places.shape).all(axis=1)
        if not bool((together == active).all()):
            raise Fault("a barrier that not every thread of its CTA comes to")
        waiting[:] = False
        threads.shared.cta_epoch[together] += 1
        threads.shared.warp_epoch[together] += 1
