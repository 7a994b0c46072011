"""The words for a viewing direction, as data: which patch of the viewing sphere each one names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # configurations are read before torch is needed
    from torch import Tensor


@dataclass(frozen=True)
class Direction:
    """A named patch of the viewing sphere, in degrees. Azimuths are compared modulo 360."""

    words: str
    """Put before the prompt, e.g. "front view of"."""
    azimuth: tuple[float, float]
    elevation: tuple[float, float]

    def contains(self, azimuth: Tensor, elevation: Tensor) -> Tensor:
        """Whether each viewpoint [V] lies in the patch."""
        low, high = self.azimuth
        around = (azimuth - low) % 360 < high - low
        return around & (elevation >= self.elevation[0]) & (elevation < self.elevation[1])


#: The authors say "overhead" for v < 30 degrees; since cos(polar angle) = 1 - 2 v / pi, that is sin(elevation) > 2/3.
_OVERHEAD = math.degrees(math.asin(2 / 3))
_TOP = 90.01  # above the zenith, so that ranges, open at their upper end, include it

#: The authors' words (the first patch that contains a viewpoint names it).
PAPER_DIRECTIONS = (
    Direction("overhead view of", (0.0, 360.0), (_OVERHEAD, _TOP)),
    Direction("front view of", (-45.0, 45.0), (-90.0, _TOP)),
    Direction("side view of", (45.0, 135.0), (-90.0, _TOP)),
    Direction("backside view of", (135.0, 225.0), (-90.0, _TOP)),
    Direction("side view of", (225.0, 315.0), (-90.0, _TOP)),
)
