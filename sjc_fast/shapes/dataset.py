"""The training pictures: every object from every named direction, painted in any colour over any background."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..cameras import Cameras, orbit
from ..directions import Direction
from ..files import atomic
from ..schedule import plain_backgrounds
from .scenes import COLOURS, OBJECTS, Layers, render_layers

SIZE = 64  # pixels a side
RADIUS = 2.5  # camera distance; outside the voxel box, so nothing can grow on the lens
FOV = 45.0  # degrees, the same for every picture: a random one would make size ambiguous

_AZIMUTHS = ("front", "front left", "left", "back left", "back", "back right", "right", "front right")
_ELEVATIONS = (("low ", (-26.0, 6.0)), ("", (6.0, 44.0)), ("overhead ", (44.0, 76.0)))

#: 8 azimuths x 3 elevations; left and right are the object's own.
DIRECTIONS = tuple(
    Direction(f"{height}{side} view of", (45.0 * i - 22.5, 45.0 * i + 22.5), elevation)
    for height, elevation in _ELEVATIONS
    for i, side in enumerate(_AZIMUTHS)
)


#: Fingerprint of what the pictures show; pictures of other scenes are made anew.
SCENES = hashlib.sha256(
    Path(__file__).with_name("scenes.py").read_bytes() + repr((SIZE, RADIUS, FOV, DIRECTIONS)).encode()
).hexdigest()[:16]


def _bank_digest(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("scenes", "")


def direction_cameras() -> Cameras:
    """One camera at the middle of every direction, in the order of `DIRECTIONS`."""
    middle = torch.tensor([(sum(d.azimuth) / 2, sum(d.elevation) / 2) for d in DIRECTIONS])
    return orbit(middle[:, 0], middle[:, 1], RADIUS, FOV)


def render_views(name: str, cameras: Cameras, size: int = SIZE, supersample: int = 3) -> Layers:
    """Exact anti-aliased pictures of an object, [V, ., size, size], averaging supersample^2 rays a pixel."""
    origins, directions = cameras.rays(size * supersample, size * supersample)
    views = []
    for origin, rays in zip(origins, directions, strict=True):
        fine = render_layers(name, origin.expand_as(rays), rays)
        views.append([torch.nn.functional.avg_pool2d(x, supersample) for x in (fine.main, fine.fixed, fine.coverage)])
    return Layers(*(torch.stack(x) for x in zip(*views, strict=True)))


def load_bank(path: Path, progress: Callable[[str], None] = lambda _: None) -> dict[str, Layers]:
    """Every object from every direction, pre-rendered once and kept in `path` (safetensors, about 10 MB)."""
    if not path.exists() or _bank_digest(path) != SCENES:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for name in OBJECTS:
            progress(f"rendering {name}")
            layers = render_views(name, direction_cameras())
            for part in ("main", "fixed", "coverage"):
                tensors[f"{name}.{part}"] = getattr(layers, part).half().contiguous()
        with atomic(path, "the pictures") as partial:
            save_file(tensors, partial, metadata={"scenes": SCENES})
    tensors = load_file(path)
    return {n: Layers(*(tensors[f"{n}.{part}"].float() for part in ("main", "fixed", "coverage"))) for n in OBJECTS}


class Pictures:
    """Random training pairs: pictures in [-1, 1], [B, 3, SIZE, SIZE], and their captions."""

    def __init__(self, bank: dict[str, Layers]) -> None:
        self.names = list(bank)
        self.layers = Layers(*(torch.stack([getattr(bank[n], p) for n in bank]) for p in ("main", "fixed", "coverage")))

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """Draw `count` pairs. A caption may lack its direction (5%), its colour (3%) or everything (10%: guidance)."""
        pick = lambda n: torch.randint(n, (count,), generator=generator)  # noqa: E731
        thing, view, colour = pick(len(self.names)), pick(len(DIRECTIONS)), pick(len(COLOURS))
        palette = torch.tensor(list(COLOURS.values()))
        drawn = Layers(*(x[thing, view] for x in (self.layers.main, self.layers.fixed, self.layers.coverage)))
        pictures = drawn.paint(palette[colour], plain_backgrounds(count, generator)).clamp(0, 1)
        drop = torch.rand(count, 3, generator=generator) < torch.tensor([0.05, 0.03, 0.10])
        captions = [
            ""
            if nothing
            else caption(self.names[t], "" if no_colour else list(COLOURS)[c], None if no_view else int(v))
            for t, v, c, (no_view, no_colour, nothing) in zip(thing, view, colour.tolist(), drop.tolist(), strict=True)
        ]
        return pictures * 2 - 1, captions


def caption(name: str, colour: str, direction: int | None) -> str:
    """The prompt of a picture, e.g. "front left view of a red mushroom"."""
    subject = f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {name}" if colour else f"a {name}"
    return subject if direction is None else f"{DIRECTIONS[direction].words} {subject}"
