"""What a launch executes: instructions by warps, and the sectors that its loads and reductions touch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

SECTOR = 32  # bytes that memory is read and reduced by


@dataclass
class Access:
    """Global accesses of one kind.

    Attributes:
        requests: instructions of warps in which a lane takes part.
        lanes, addresses, sectors: sums over them, of the lanes that do, and of what they touch, each counted once.
    """

    requests: int = 0
    lanes: int = 0
    addresses: int = 0
    sectors: int = 0

    def add(self, warps: np.ndarray, addresses: np.ndarray) -> None:
        """Accesses of lanes of warps."""
        if len(warps) == 0:
            return
        self.requests += len(np.unique(warps))
        self.lanes += len(warps)
        wide = addresses.astype(np.int64)
        self.addresses += len(np.unique(np.stack([warps, wide]), axis=1).T)
        self.sectors += len(np.unique(np.stack([warps, wide // SECTOR]), axis=1).T)


@dataclass
class Counts:
    """Of one launch.

    Attributes:
        warps: launched.
        instructions: PTX instructions, each once for every warp that executes it.
        blocks: how often warps execute each basic block.
        loads, reductions: of global memory; a vector is one access.
    """

    warps: int = 0
    instructions: int = 0
    blocks: Counter[int] = field(default_factory=Counter)
    loads: Access = field(default_factory=Access)
    reductions: Access = field(default_factory=Access)

    def executed(self, block: int, length: int, warps: np.ndarray) -> None:
        """Threads of warps run a basic block of so many instructions."""
        times = len(np.unique(warps))
        self.instructions += times * length
        self.blocks[block] += times
