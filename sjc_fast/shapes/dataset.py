"""The training pictures: every object from every named direction, painted in any color over any background."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..scene.cameras import Cameras, orbit
from ..storage.files import atomic
from ..training.schedule import plain_backgrounds
from .objects import COLORS, OBJECTS
from .prompts import DIRECTIONS, caption
from .scenes import Layers, render_layers

SIZE = 64  # pixels a side
RADIUS = 2.5  # camera distance; outside the voxel box, so nothing can grow on the lens
FOV = 45.0  # degrees, the same for every picture: a random one would make size ambiguous

#: Fingerprint of what the pictures show; pictures of other scenes are made anew.
SCENES = hashlib.sha256(
    b"".join(Path(__file__).with_name(f"{part}.py").read_bytes() for part in ("solids", "objects", "scenes"))
    + repr((SIZE, RADIUS, FOV, DIRECTIONS)).encode()
).hexdigest()[:16]

#: The same scenes under the fingerprint that they had before their sources were respelled.
FORMER_SCENES = "e9dd22fb2b9676b7"

LAYERS = ("main", "accent", "fixed", "coverage")


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
        views.append([torch.nn.functional.avg_pool2d(getattr(fine, x), supersample) for x in LAYERS])
    return Layers(*(torch.stack(x) for x in zip(*views, strict=True)))


def load_bank(path: Path, progress: Callable[[str], None] = lambda _: None) -> dict[str, Layers]:
    """Every object from every direction, pre-rendered once and kept in `path` (safetensors, about 10 MB)."""
    if not path.exists() or _bank_digest(path) not in (SCENES, FORMER_SCENES):
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for name in OBJECTS:
            progress(f"rendering {name}")
            layers = render_views(name, direction_cameras())
            for part in LAYERS:
                tensors[f"{name}.{part}"] = getattr(layers, part).half().contiguous()
        with atomic(path, "the pictures") as partial:
            save_file(tensors, partial, metadata={"scenes": SCENES})
    tensors = load_file(path)
    return {n: Layers(*(tensors[f"{n}.{part}"].float() for part in LAYERS)) for n in OBJECTS}


class Batch(NamedTuple):
    """Training pictures and what is said of them."""

    pictures: Tensor  # [B, 3, SIZE, SIZE] in [-1, 1]
    captions: list[str]
    layouts: Tensor  # [B, 4, SIZE, SIZE]: the object over a background of 0, and its coverage


class Pictures:
    """Random training pictures: every object from every direction in any colors over any plain background."""

    def __init__(self, bank: dict[str, Layers]) -> None:
        self.names = list(bank)
        self.layers = Layers(*(torch.stack([getattr(bank[n], p) for n in bank]) for p in LAYERS))
        self.palette = torch.tensor(list(COLORS.values()))
        self.seconds = torch.tensor([OBJECTS[n].second() for n in bank])
        self.has_accent = torch.tensor([bool(OBJECTS[n].accent) for n in bank])

    def batch(self, count: int, generator: torch.Generator) -> Batch:
        """Draw pictures. Half of those that can have a second color.

        A caption may lack its direction (4%), its color (3%) or everything (5%, for guidance).
        """
        pick = lambda n: torch.randint(n, (count,), generator=generator)  # noqa: E731
        thing, view, color, second = (
            pick(len(self.names)),
            pick(len(DIRECTIONS)),
            pick(len(COLORS)),
            pick(len(COLORS)),
        )
        asked = self.has_accent[thing] & (torch.rand(count, generator=generator) < 0.5)
        drop = torch.rand(count, 3, generator=generator) < torch.tensor([0.04, 0.03, 0.05])
        drawn = Layers(*(getattr(self.layers, part)[thing, view] for part in LAYERS))
        seconds = torch.where(asked[:, None], self.palette[second], self.seconds[thing])
        lit = drawn.lit(self.palette[color], seconds)
        background = plain_backgrounds(count, generator)[..., None, None]
        words = list(COLORS)
        captions = [
            ""
            if nothing
            else caption(self.names[t], "" if no_color else words[c], None if no_view else v, words[s] if two else "")
            for t, v, c, s, two, (no_view, no_color, nothing) in zip(
                *(x.tolist() for x in (thing, view, color, second, asked, drop)), strict=True
            )
        ]
        layouts = torch.cat([2 * lit - drawn.coverage, drawn.coverage], dim=1)
        return Batch(2 * (lit + (1 - drawn.coverage) * background) - 1, captions, layouts)
