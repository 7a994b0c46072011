"""The catalogue: every object and color that the embedded model knows.

World: right-handed, y up, units of the voxel box [-1, 1]^3. An object's front faces -x (the paper's azimuth 0 camera
stands there); its own left hand is +z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .solids import (
    Distance,
    box,
    cone,
    cut_above,
    cut_below,
    cylinder,
    ellipsoid,
    moved,
    prism,
    sphere,
    torus,
    turned,
    without,
)

#: The colors a prompt may ask for, RGB in [0, 1].
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.10),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.96, 0.84, 0.15),
    "green": (0.15, 0.62, 0.20),
    "blue": (0.14, 0.32, 0.86),
    "purple": (0.55, 0.18, 0.72),
    "pink": (0.97, 0.52, 0.70),
    "white": (0.94, 0.92, 0.86),
    "black": (0.08, 0.08, 0.09),
    "brown": (0.42, 0.26, 0.14),
}

#: Index of each material: the first two are painted in the prompt's colors, the others keep theirs.
MAIN, ACCENT, WHITE, BLACK, BROWN, GRAY, SKY, AMBER, CRIMSON, LEAF = range(10)
MATERIALS = torch.tensor(
    [
        (0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0),
        COLORS["white"],
        COLORS["black"],
        COLORS["brown"],
        (0.36, 0.36, 0.40),
        (0.62, 0.82, 0.94),
        (0.98, 0.62, 0.12),
        (0.70, 0.05, 0.08),
        (0.22, 0.52, 0.14),
    ]
)


class Part(NamedTuple):
    """One solid of an object: its distance function and what it is made of."""

    distance: Distance
    material: int


def _mushroom() -> list[Part]:
    spots = [(-0.44, 0.36, 0.0), (-0.12, 0.50, 0.33), (-0.10, 0.52, -0.30), (0.36, 0.42, 0.16), (0.30, 0.40, -0.30)]
    spots += [(-0.36, 0.20, 0.42), (-0.34, 0.18, -0.46), (0.06, 0.18, 0.56), (0.02, 0.60, 0.0)]
    cap = cut_below(ellipsoid(0, 0.05, 0, 0.66, 0.56, 0.66), 0.02)
    stem = cone(0, 0, -0.72, 0.05, 0.26, 0.18)
    return [Part(cap, MAIN), Part(stem, ACCENT), *(Part(sphere(*s, 0.11), WHITE) for s in spots)]


def _snowman() -> list[Part]:
    body = [sphere(0, -0.40, 0, 0.40), sphere(0, 0.10, 0, 0.29), sphere(0, 0.46, 0, 0.21)]
    eyes = [sphere(-0.18, 0.52, z, 0.05) for z in (-0.085, 0.085)]
    buttons = [sphere(-0.285, 0.15, 0, 0.045), sphere(-0.285, 0.02, 0, 0.045), sphere(-0.39, -0.30, 0, 0.05)]
    hat = [cylinder(1, (0, 0.64, 0), 0.23, 0.022), cylinder(1, (0, 0.74, 0), 0.15, 0.10)]
    nose = ellipsoid(-0.27, 0.45, 0, 0.13, 0.045, 0.045)
    parts = [Part(d, MAIN) for d in body] + [Part(d, BLACK) for d in eyes + buttons]
    parts += [Part(d, ACCENT) for d in hat]
    return [*parts, Part(nose, AMBER)]


def _house() -> list[Part]:
    walls, roof = box(0, -0.22, 0, 0.50, 0.36, 0.44), prism(0.10, 0.58, 0.58, 0.58)
    door = box(-0.50, -0.36, 0, 0.03, 0.21, 0.11, 0.005)
    front = [box(-0.50, -0.16, z, 0.03, 0.09, 0.09, 0.005) for z in (-0.27, 0.27)]
    sides = [box(x, -0.16, z, 0.10, 0.09, 0.03, 0.005) for x in (-0.2, 0.22) for z in (-0.44, 0.44)]
    chimney = box(0.25, 0.46, 0.24, 0.07, 0.20, 0.07, 0.005)
    parts = [Part(walls, MAIN), Part(roof, ACCENT), Part(door, BROWN), Part(chimney, BROWN)]
    return parts + [Part(d, SKY) for d in front + sides]


def _car() -> list[Part]:
    body, cabin = box(0, -0.10, 0, 0.72, 0.16, 0.32, 0.06), box(0.08, 0.16, 0, 0.40, 0.17, 0.27, 0.07)
    glass = [box(0.08, 0.15, 0, 0.41, 0.09, 0.20, 0.02), box(0.08, 0.15, 0, 0.30, 0.09, 0.28, 0.02)]
    wheels = [cylinder(2, (x, -0.26, z), 0.155, 0.06) for x in (-0.42, 0.42) for z in (-0.29, 0.29)]
    hubs = [cylinder(2, (x, -0.26, z), 0.07, 0.07) for x in (-0.42, 0.42) for z in (-0.29, 0.29)]
    lamps = [sphere(-0.69, -0.06, z, 0.07) for z in (-0.2, 0.2)]
    rear = [box(0.71, -0.05, z, 0.03, 0.05, 0.08, 0.01) for z in (-0.21, 0.21)]
    parts = [Part(body, MAIN), Part(cabin, MAIN), *(Part(d, SKY) for d in glass), *(Part(d, ACCENT) for d in wheels)]
    return parts + [Part(d, GRAY) for d in hubs] + [Part(d, WHITE) for d in lamps] + [Part(d, CRIMSON) for d in rear]


def _duck() -> list[Part]:
    body, tail = ellipsoid(0.06, -0.24, 0, 0.56, 0.34, 0.38), ellipsoid(0.56, -0.02, 0, 0.16, 0.20, 0.18)
    head, neck = sphere(-0.30, 0.34, 0, 0.27), ellipsoid(-0.27, 0.06, 0, 0.20, 0.28, 0.20)
    wings = [ellipsoid(0.10, -0.16, z, 0.30, 0.17, 0.08) for z in (-0.36, 0.36)]
    beak = ellipsoid(-0.58, 0.28, 0, 0.16, 0.06, 0.13)
    eyes = [sphere(-0.46, 0.44, z, 0.06) for z in (-0.16, 0.16)]
    parts = [Part(d, MAIN) for d in (body, tail, head, neck, *wings)]
    return [*parts, Part(beak, ACCENT), *(Part(d, BLACK) for d in eyes)]


def _tree() -> list[Part]:
    tiers = [
        cone(0, 0, -0.36, 0.20, 0.56, 0.12),
        cone(0, 0, -0.04, 0.48, 0.44, 0.08),
        cone(0, 0, 0.26, 0.76, 0.31, 0.0),
    ]
    return [*(Part(d, MAIN) for d in tiers), Part(cone(0, 0, -0.74, -0.30, 0.15, 0.12), ACCENT)]


def _traffic_cone() -> list[Part]:
    base, body = box(0, -0.62, 0, 0.50, 0.06, 0.50, 0.03), cone(0, 0, -0.60, 0.70, 0.40, 0.06)
    return [Part(base, MAIN), Part(body, MAIN), Part(cone(0, 0, -0.10, 0.20, 0.277, 0.199), ACCENT)]


def _cube() -> list[Part]:
    return [Part(box(0, 0, 0, 0.48, 0.48, 0.48, 0.06), MAIN)]


def _ball() -> list[Part]:
    return [Part(sphere(0, 0, 0, 0.62), MAIN)]


def _ring() -> list[Part]:
    return [Part(torus(0.50, 0.19), MAIN)]


def _chair() -> list[Part]:
    legs = [box(x, -0.46, z, 0.055, 0.26, 0.055) for x in (-0.32, 0.32) for z in (-0.32, 0.32)]
    back = [box(0.33, 0.30, z, 0.05, 0.46, 0.055) for z in (-0.32, 0.32)]
    slats = [box(0.33, y, 0, 0.04, 0.10, 0.36) for y in (0.22, 0.60)]
    return [Part(d, MAIN) for d in (*legs, *back, *slats)] + [Part(box(0, -0.16, 0, 0.42, 0.07, 0.42, 0.04), ACCENT)]


def _table() -> list[Part]:
    legs = [box(x, -0.26, z, 0.06, 0.36, 0.06) for x in (-0.40, 0.40) for z in (-0.56, 0.56)]
    return [Part(box(0, 0.16, 0, 0.54, 0.07, 0.72, 0.03), MAIN), *(Part(d, ACCENT) for d in legs)]


def _rocket() -> list[Part]:
    body, nose = cone(0, 0, -0.52, 0.34, 0.24, 0.26), cone(0, 0, 0.34, 0.82, 0.26, 0.02)
    fins = [box(0, -0.52, 0, 0.46, 0.18, 0.04), box(0, -0.52, 0, 0.04, 0.18, 0.46)]
    parts = [Part(body, MAIN), Part(cone(0, 0, -0.66, -0.52, 0.14, 0.18), GRAY), *(Part(d, ACCENT) for d in fins)]
    return [*parts, Part(nose, ACCENT), Part(sphere(-0.18, 0.10, 0, 0.13), SKY)]


def _boat() -> list[Part]:
    hull = cut_above(ellipsoid(0, -0.16, 0, 0.74, 0.40, 0.34), -0.16)
    sail = moved(turned(prism(0.0, 0.78, 0.46, 0.045)), 0.06, -0.02, 0)
    mast = cylinder(1, (0.06, 0.26, 0), 0.04, 0.54)
    cabin, flag = box(-0.40, -0.12, 0, 0.13, 0.10, 0.16, 0.03), box(0.18, 0.74, 0, 0.12, 0.06, 0.03, 0.01)
    return [Part(hull, MAIN), Part(sail, ACCENT), Part(mast, BROWN), Part(cabin, BROWN), Part(flag, CRIMSON)]


def _mug() -> list[Part]:
    cup = without(cylinder(1, (0, 0, 0), 0.44, 0.50), cylinder(1, (0, 0.12, 0), 0.35, 0.50))
    handle = without(moved(torus(0.25, 0.075), 0, 0, 0.46), cylinder(1, (0, 0, 0), 0.36, 0.6))
    return [Part(cup, MAIN), Part(handle, ACCENT), Part(cylinder(1, (0, 0.14, 0), 0.36, 0.04), BROWN)]


def _robot() -> list[Part]:
    body, head = box(0, -0.16, 0, 0.24, 0.32, 0.34, 0.04), box(0, 0.40, 0, 0.22, 0.20, 0.26, 0.04)
    arms = [box(0, -0.10, z, 0.09, 0.26, 0.08, 0.03) for z in (-0.44, 0.44)]
    legs = [box(0, -0.62, z, 0.12, 0.16, 0.11, 0.03) for z in (-0.17, 0.17)]
    eyes = [sphere(-0.21, 0.44, z, 0.075) for z in (-0.12, 0.12)]
    panel, mouth = box(-0.24, -0.10, 0, 0.03, 0.13, 0.20, 0.01), box(-0.22, 0.28, 0, 0.02, 0.03, 0.14, 0.01)
    antenna = [cylinder(1, (0, 0.68, 0), 0.03, 0.10), sphere(0, 0.80, 0, 0.07)]
    parts = [Part(body, MAIN), Part(head, ACCENT), *(Part(d, MAIN) for d in arms), *(Part(d, GRAY) for d in legs)]
    parts += [Part(d, BLACK) for d in (*eyes, mouth)] + [Part(panel, SKY), Part(antenna[0], GRAY)]
    return [*parts, Part(antenna[1], CRIMSON)]


def _penguin() -> list[Part]:
    body, head = ellipsoid(0.02, -0.20, 0, 0.36, 0.50, 0.38), sphere(0, 0.42, 0, 0.28)
    belly = ellipsoid(-0.13, -0.22, 0, 0.26, 0.40, 0.29)
    wings = [ellipsoid(0.02, -0.12, z, 0.16, 0.34, 0.08) for z in (-0.40, 0.40)]
    feet = [ellipsoid(-0.20, -0.68, z, 0.20, 0.07, 0.12) for z in (-0.17, 0.17)]
    eyes = [sphere(-0.22, 0.50, z, 0.085) for z in (-0.12, 0.12)]
    pupils = [sphere(-0.285, 0.51, z, 0.04) for z in (-0.12, 0.12)]
    parts = [Part(d, MAIN) for d in (body, head, *wings)] + [Part(belly, ACCENT)]
    parts += [Part(d, AMBER) for d in (*feet, ellipsoid(-0.32, 0.38, 0, 0.14, 0.06, 0.10))]
    return parts + [Part(d, WHITE) for d in eyes] + [Part(d, BLACK) for d in pupils]


def _apple() -> list[Part]:
    flesh = without(ellipsoid(0, -0.08, 0, 0.60, 0.56, 0.60), sphere(0, 0.62, 0, 0.24))
    stem, leaf = cylinder(1, (0, 0.54, 0), 0.04, 0.18), ellipsoid(-0.16, 0.62, 0.10, 0.22, 0.06, 0.12)
    return [Part(flesh, MAIN), Part(stem, BROWN), Part(leaf, ACCENT)]


class Thing(NamedTuple):
    """An object: its solids, and the part that a prompt may give a second color."""

    parts: Callable[[], list[Part]]
    accent: str = ""
    material: int = MAIN  # of that part where no color is asked for

    def second(self, color: str = "") -> tuple[float, float, float]:
        """RGB of that part, asked for in a color or not."""
        return COLORS[color] if color else tuple(MATERIALS[self.material].tolist())


#: Every object the embedded model knows, by the word that asks for it.
OBJECTS: dict[str, Thing] = {
    "mushroom": Thing(_mushroom, "stem", WHITE),
    "snowman": Thing(_snowman, "hat", BLACK),
    "house": Thing(_house, "roof", GRAY),
    "car": Thing(_car, "wheels", BLACK),
    "duck": Thing(_duck, "beak", AMBER),
    "tree": Thing(_tree, "trunk", BROWN),
    "cone": Thing(_traffic_cone, "stripe", WHITE),
    "cube": Thing(_cube),
    "ball": Thing(_ball),
    "ring": Thing(_ring),
    "chair": Thing(_chair, "seat", BROWN),
    "table": Thing(_table, "legs", BROWN),
    "rocket": Thing(_rocket, "fins", CRIMSON),
    "boat": Thing(_boat, "sail", WHITE),
    "mug": Thing(_mug, "handle", WHITE),
    "robot": Thing(_robot, "head", GRAY),
    "penguin": Thing(_penguin, "belly", WHITE),
    "apple": Thing(_apple, "leaf", LEAF),
}
