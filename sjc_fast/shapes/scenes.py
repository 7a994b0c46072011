"""Procedural scenes: coloured signed-distance objects with soft light, whose exact pictures teach and judge the model.

World: right-handed, y up, units of the voxel box [-1, 1]^3. An object's front faces -x (the paper's azimuth 0 camera
stands there); its own left hand is +z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

#: The colours a prompt may ask for, RGB in [0, 1].
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.10),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.96, 0.84, 0.15),
    "green": (0.15, 0.62, 0.20),
    "blue": (0.14, 0.32, 0.86),
    "purple": (0.55, 0.18, 0.72),
}

#: Index of each material: 0 is painted in the prompt's colour, the others keep theirs.
MAIN, WHITE, BLACK, BROWN, GREY, SKY, AMBER, CRIMSON = range(8)
MATERIALS = torch.tensor(
    [
        (0.0, 0.0, 0.0),
        (0.94, 0.92, 0.86),
        (0.08, 0.08, 0.09),
        (0.42, 0.26, 0.14),
        (0.36, 0.36, 0.40),
        (0.62, 0.82, 0.94),
        (0.98, 0.62, 0.12),
        (0.70, 0.05, 0.08),
    ]
)

#: Key light, pointing from the object to the light: above, a little in front and to the object's left.
LIGHT = torch.nn.functional.normalize(torch.tensor([-0.45, 0.8, 0.4]), dim=0)

Distance = Callable[[Tensor], Tensor]  # points [P, 3] -> signed distance [P]


class Part(NamedTuple):
    """One solid of an object: its distance function and what it is made of."""

    distance: Distance
    material: int


def _sphere(x: float, y: float, z: float, radius: float) -> Distance:
    centre = torch.tensor([x, y, z])
    return lambda p: (p - centre).norm(dim=-1) - radius


def _ellipsoid(x: float, y: float, z: float, rx: float, ry: float, rz: float) -> Distance:
    """First-order distance to an ellipsoid: exact on the surface, a safe step length near it."""
    centre, radii = torch.tensor([x, y, z]), torch.tensor([rx, ry, rz])

    def distance(p: Tensor) -> Tensor:
        q = (p - centre) / radii
        k0, k1 = q.norm(dim=-1), (q / radii).norm(dim=-1)
        return k0 * (k0 - 1) / k1.clamp_min(1e-6)

    return distance


def _box(x: float, y: float, z: float, hx: float, hy: float, hz: float, rounding: float = 0.02) -> Distance:
    centre, half = torch.tensor([x, y, z]), torch.tensor([hx, hy, hz]) - rounding

    def distance(p: Tensor) -> Tensor:
        q = (p - centre).abs() - half
        return q.clamp_min(0).norm(dim=-1) + q.amax(dim=-1).clamp_max(0) - rounding

    return distance


def _cone(x: float, z: float, y0: float, y1: float, r0: float, r1: float) -> Distance:
    """Upright cone frustum from height y0 (radius r0) to y1 (radius r1), by the distance to its 2D profile."""
    slope = torch.tensor([y1 - y0, r0 - r1])
    slope = slope / slope.norm()

    def distance(p: Tensor) -> Tensor:
        radial = ((p[:, 0] - x) ** 2 + (p[:, 2] - z) ** 2).sqrt()
        side = (radial - r0) * slope[0] + (p[:, 1] - y0) * slope[1]
        return torch.stack([side, y0 - p[:, 1], p[:, 1] - y1]).amax(dim=0)

    return distance


def _cylinder(axis: int, centre: tuple[float, float, float], radius: float, half: float) -> Distance:
    middle = torch.tensor(centre)
    across = [i for i in range(3) if i != axis]

    def distance(p: Tensor) -> Tensor:
        q = p - middle
        q = torch.stack([q[:, across].norm(dim=-1) - radius, q[:, axis].abs() - half], dim=-1)
        return q.clamp_min(0).norm(dim=-1) + q.amax(dim=-1).clamp_max(0)

    return distance


def _torus(radius: float, tube: float) -> Distance:
    """Torus around the x axis, so that its hole is seen from the front."""

    def distance(p: Tensor) -> Tensor:
        ring = p[:, 1:].norm(dim=-1) - radius
        return (ring**2 + p[:, 0] ** 2).sqrt() - tube

    return distance


def _prism(y0: float, y1: float, half_width: float, half_length: float) -> Distance:
    """Gable roof: a triangle in (z, y), swept along x."""
    slope = torch.tensor([y1 - y0, half_width])
    slope = slope / slope.norm()

    def distance(p: Tensor) -> Tensor:
        side = (p[:, 2].abs() - half_width) * slope[0] + (p[:, 1] - y0) * slope[1]
        return torch.stack([side, y0 - p[:, 1], p[:, 0].abs() - half_length]).amax(dim=0)

    return distance


def _cut_below(inner: Distance, height: float) -> Distance:
    return lambda p: torch.maximum(inner(p), height - p[:, 1])


def _mushroom() -> list[Part]:
    spots = [(-0.44, 0.36, 0.0), (-0.12, 0.50, 0.33), (-0.10, 0.52, -0.30), (0.36, 0.42, 0.16), (0.30, 0.40, -0.30)]
    spots += [(-0.36, 0.20, 0.42), (-0.34, 0.18, -0.46), (0.06, 0.18, 0.56), (0.02, 0.60, 0.0)]
    cap = _cut_below(_ellipsoid(0, 0.05, 0, 0.66, 0.56, 0.66), 0.02)
    stem = _cone(0, 0, -0.72, 0.05, 0.26, 0.18)
    return [Part(cap, MAIN), Part(stem, WHITE), *(Part(_sphere(*s, 0.11), WHITE) for s in spots)]


def _snowman() -> list[Part]:
    body = [_sphere(0, -0.40, 0, 0.40), _sphere(0, 0.10, 0, 0.29), _sphere(0, 0.46, 0, 0.21)]
    eyes = [_sphere(-0.18, 0.52, z, 0.045) for z in (-0.085, 0.085)]
    buttons = [_sphere(-0.285, 0.15, 0, 0.045), _sphere(-0.285, 0.02, 0, 0.045), _sphere(-0.39, -0.30, 0, 0.05)]
    hat = [_cylinder(1, (0, 0.64, 0), 0.23, 0.022), _cylinder(1, (0, 0.74, 0), 0.15, 0.10)]
    nose = _ellipsoid(-0.27, 0.45, 0, 0.13, 0.045, 0.045)
    parts = [Part(d, MAIN) for d in body] + [Part(d, BLACK) for d in eyes + buttons + hat]
    return [*parts, Part(nose, AMBER)]


def _house() -> list[Part]:
    walls, roof = _box(0, -0.22, 0, 0.50, 0.36, 0.44), _prism(0.10, 0.58, 0.58, 0.58)
    door = _box(-0.50, -0.36, 0, 0.03, 0.21, 0.11, 0.005)
    front = [_box(-0.50, -0.16, z, 0.03, 0.09, 0.09, 0.005) for z in (-0.27, 0.27)]
    sides = [_box(x, -0.16, z, 0.10, 0.09, 0.03, 0.005) for x in (-0.2, 0.22) for z in (-0.44, 0.44)]
    chimney = _box(0.25, 0.46, 0.24, 0.07, 0.20, 0.07, 0.005)
    parts = [Part(walls, MAIN), Part(roof, GREY), Part(door, BROWN), Part(chimney, BROWN)]
    return parts + [Part(d, SKY) for d in front + sides]


def _car() -> list[Part]:
    body, cabin = _box(0, -0.10, 0, 0.72, 0.16, 0.32, 0.06), _box(0.08, 0.16, 0, 0.40, 0.17, 0.27, 0.07)
    glass = [_box(0.08, 0.15, 0, 0.41, 0.09, 0.20, 0.02), _box(0.08, 0.15, 0, 0.30, 0.09, 0.28, 0.02)]
    wheels = [_cylinder(2, (x, -0.26, z), 0.155, 0.06) for x in (-0.42, 0.42) for z in (-0.29, 0.29)]
    hubs = [_cylinder(2, (x, -0.26, z), 0.07, 0.07) for x in (-0.42, 0.42) for z in (-0.29, 0.29)]
    lamps = [_sphere(-0.69, -0.06, z, 0.07) for z in (-0.2, 0.2)]
    rear = [_box(0.71, -0.05, z, 0.03, 0.05, 0.08, 0.01) for z in (-0.21, 0.21)]
    parts = [Part(body, MAIN), Part(cabin, MAIN), *(Part(d, SKY) for d in glass), *(Part(d, BLACK) for d in wheels)]
    return parts + [Part(d, GREY) for d in hubs] + [Part(d, WHITE) for d in lamps] + [Part(d, CRIMSON) for d in rear]


def _duck() -> list[Part]:
    body, tail = _ellipsoid(0.06, -0.24, 0, 0.56, 0.34, 0.38), _ellipsoid(0.56, -0.02, 0, 0.16, 0.20, 0.18)
    head, neck = _sphere(-0.30, 0.34, 0, 0.27), _ellipsoid(-0.27, 0.06, 0, 0.20, 0.28, 0.20)
    wings = [_ellipsoid(0.10, -0.16, z, 0.30, 0.17, 0.08) for z in (-0.36, 0.36)]
    beak = _ellipsoid(-0.58, 0.28, 0, 0.16, 0.06, 0.13)
    eyes = [_sphere(-0.46, 0.44, z, 0.06) for z in (-0.16, 0.16)]
    parts = [Part(d, MAIN) for d in (body, tail, head, neck, *wings)]
    return [*parts, Part(beak, AMBER), *(Part(d, BLACK) for d in eyes)]


def _tree() -> list[Part]:
    tiers = [
        _cone(0, 0, -0.36, 0.20, 0.56, 0.12),
        _cone(0, 0, -0.04, 0.48, 0.44, 0.08),
        _cone(0, 0, 0.26, 0.76, 0.31, 0.0),
    ]
    return [*(Part(d, MAIN) for d in tiers), Part(_cone(0, 0, -0.74, -0.30, 0.15, 0.12), BROWN)]


def _traffic_cone() -> list[Part]:
    base, cone = _box(0, -0.62, 0, 0.50, 0.06, 0.50, 0.03), _cone(0, 0, -0.60, 0.70, 0.40, 0.06)
    return [Part(base, MAIN), Part(cone, MAIN), Part(_cone(0, 0, -0.10, 0.20, 0.277, 0.199), WHITE)]


def _cube() -> list[Part]:
    return [Part(_box(0, 0, 0, 0.48, 0.48, 0.48, 0.06), MAIN)]


def _ball() -> list[Part]:
    return [Part(_sphere(0, 0, 0, 0.62), MAIN)]


def _ring() -> list[Part]:
    return [Part(_torus(0.50, 0.19), MAIN)]


#: Every object the embedded model knows, by the word that asks for it.
OBJECTS: dict[str, Callable[[], list[Part]]] = {
    "mushroom": _mushroom,
    "snowman": _snowman,
    "house": _house,
    "car": _car,
    "duck": _duck,
    "tree": _tree,
    "cone": _traffic_cone,
    "cube": _cube,
    "ball": _ball,
    "ring": _ring,
}


@dataclass
class Layers:
    """A picture of an object before the prompt's colour and the background are chosen.

    Any colour over any background is then ``main * colour + fixed + (1 - coverage) * background``.
    """

    main: Tensor  # [..., 1, H, W] light falling on the material that takes the prompt's colour, times coverage
    fixed: Tensor  # [..., 3, H, W] lit RGB of the other materials, times coverage
    coverage: Tensor  # [..., 1, H, W] share of the pixel that the object covers

    def paint(self, colour: Tensor, background: Tensor) -> Tensor:
        """RGB in [0, 1], [..., 3, H, W], from colour and background given as [..., 3]."""
        lit = self.main * colour[..., None, None] + self.fixed
        return lit + (1 - self.coverage) * background[..., None, None]


def _distances(parts: list[Part], points: Tensor) -> Tensor:
    return torch.stack([part.distance(points) for part in parts])


def _normals(parts: list[Part], points: Tensor, step: float = 2e-3) -> Tensor:
    """Unit normals by central differences of the distance."""
    offsets = torch.cat([torch.eye(3), -torch.eye(3)]) * step
    around = (points[:, None] + offsets).reshape(-1, 3)
    values = _distances(parts, around).amin(dim=0).reshape(-1, 2, 3)
    return torch.nn.functional.normalize(values[:, 0] - values[:, 1], dim=-1)


def _light(parts: list[Part], points: Tensor, normals: Tensor) -> Tensor:
    """Half-Lambert key light over a sky ambient, times a short-range ambient occlusion; brightness about 0.4 to 1.1."""
    key = (0.5 + 0.5 * normals @ LIGHT) ** 1.5
    sky = 0.5 + 0.5 * normals[:, 1]
    occlusion = torch.zeros(len(points))
    for reach in (0.05, 0.12, 0.22):
        gap = _distances(parts, points + normals * reach).amin(dim=0)
        occlusion += (reach - gap).clamp_min(0) / reach / 3
    return (0.38 + 0.20 * sky + 0.50 * key) * (1 - 0.55 * occlusion)


def _trace(parts: list[Part], origins: Tensor, directions: Tensor, far: float) -> Tensor:
    """Sphere tracing. Returns the distance to the surface [R], infinity where a ray misses."""
    depth = torch.zeros(len(origins))
    hit = torch.zeros(len(origins), dtype=torch.bool)
    live = torch.arange(len(origins))
    for _ in range(96):
        gap = _distances(parts, origins[live] + depth[live, None] * directions[live]).amin(dim=0)
        hit[live] = gap < 1e-3
        depth[live] += gap * 0.9  # some of the distances are only first-order estimates
        live = live[(gap >= 1e-3) & (depth[live] < far)]
        if len(live) == 0:
            break
    return torch.where(hit, depth, torch.inf)


@torch.no_grad()
def render_layers(name: str, origins: Tensor, directions: Tensor) -> Layers:
    """Exact picture of an object along given rays.

    Args:
        name: a key of `OBJECTS`.
        origins: ray origins, [H, W, 3].
        directions: unit ray directions, [H, W, 3].

    Returns:
        `Layers` of shape [., H, W], one sample a pixel (average several for anti-aliasing).
    """
    height, width = origins.shape[:2]
    o, d = origins.reshape(-1, 3), directions.reshape(-1, 3)
    parts = OBJECTS[name]()
    depth = _trace(parts, o, d, far=float(o.norm(dim=-1).max()) + 2)
    hit = depth.isfinite().nonzero()[:, 0]
    points = o[hit] + depth[hit, None] * d[hit]
    distances = _distances(parts, points)
    owner = torch.tensor([part.material for part in parts])[distances.argmin(dim=0)]
    light = _light(parts, points, _normals(parts, points))

    main, fixed, coverage = torch.zeros(len(o)), torch.zeros(len(o), 3), torch.zeros(len(o))
    main[hit] = light * (owner == MAIN)
    fixed[hit] = light[:, None] * MATERIALS[owner]
    coverage[hit] = 1
    return Layers(
        main.reshape(1, height, width),
        fixed.T.reshape(3, height, width),
        coverage.reshape(1, height, width),
    )
