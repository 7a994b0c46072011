"""A renderer against the reference in float64: scenes, values, gradients, and what rounding may change of them.

Shared by the tests and the benchmarks, so that every backend is judged by one measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..scene.cameras import Cameras, orbit, ring
from ..scene.field import VoxelField
from .render import render

#: Where checks run: a GPU if there is one, else Triton's interpreter.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: A weight at the gate (1e-4) may fall on either side of it: so much of a feature of size 3 is allowed.
FEATURE_FLIP = 3e-4
#: Rounding of every other output, relative to 1 + |truth|. The optical depth of a ray sums to at most 14 (where the
#: transmittance is 1e-6), so its float32 sum errs by some 14 x 2^-23 = 1.7e-6 of the transmittance behind it; opacity
#: and emptiness inherit that, and depth, which gives light that passes through 10, ten times as much, relative to 10.
VALUE = 2e-5
#: Root mean square of a gradient's error over that of the gradient plus SMALL: as VALUE, in a sum over samples of both
#: signs.
GRADIENT = 2e-5
#: The upstream gradients are of size 1; of a nearly hidden voxel's gradient, rounding at that size is left.
SMALL = 0.05
#: A box whose sides differ.
UNEVEN = torch.tensor([[-1.0, -0.8, -0.9], [0.7, 1.0, 1.1]])


def make_field(
    kind: str,
    shape: tuple[int, int, int] = (5, 6, 7),
    channels: int = 4,
    seed: int = 0,
    box: Tensor | None = None,  # [2, 3]
) -> VoxelField:
    """A field by kind: random, empty, opaque (a wall), solid (a ball), fog."""
    generator = torch.Generator().manual_seed(seed)
    field = VoxelField(shape, channels, box=box, generator=generator)
    field.density_scale.data.fill_(0.2)
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in field.density.shape], indexing="ij")
    field.density.data = {
        "random": lambda: 3 * torch.randn(field.density.shape, generator=generator),
        "empty": lambda: torch.full(field.density.shape, -60.0),
        "opaque": lambda: torch.where(x < 0.2, 60.0, -5.0),
        "solid": lambda: 40 * (0.8 - (x**2 + y**2 + z**2).sqrt()),
        "fog": lambda: torch.zeros(field.density.shape),
    }[kind]()
    return field


def make_wall() -> tuple[VoxelField, slice]:
    """An opaque slab in thin fog, and which voxels along x it hides from a camera at -x."""
    field = VoxelField(16, 3, generator=torch.Generator().manual_seed(0))
    field.density.data.fill_(-3.6)  # thin fog: density 0.01
    field.density.data[:, :, 4:7] = 55.0  # thick enough to hide, thin enough for float32 to see a little through
    return field, slice(9, 16)


def make_cameras(kind: str) -> Cameras:
    """Cameras by kind: outside (3 views), inside, edge-on (in a plane of the box), away."""
    if kind == "outside":
        return ring(3, 17.0, 2.3, 55.0, start=33.0)
    if kind == "inside":
        return Cameras(orbit(torch.tensor([40.0]), torch.tensor([10.0]), 0.35, 90.0).c2w, torch.tensor([90.0]))
    c2w = orbit(torch.tensor([0.0]), torch.tensor([0.0]), 2.0, 40.0).c2w
    if kind == "edge-on":
        c2w[:, 1, 3] += 1.0  # the middle row of an odd image runs in the plane y = 1
    if kind == "away":
        c2w[:, :3, :3] *= torch.tensor([-1.0, 1.0, -1.0])
    return Cameras(c2w, torch.tensor([40.0]))


@dataclass
class Pass:
    """Outputs and gradients of one rendering."""

    outputs: list[Tensor]  # features, depth, opacity, emptiness
    gradients: dict[str, Tensor]
    density: Tensor  # raw, of the field


def run(
    field: VoxelField,
    cameras: Cameras,
    size: int | tuple[int, int],
    backend: str,
    background: Tensor | None = None,  # [V, C]
    beta: float = 7.0,
    seed: int = 1,
    **options: Any,
) -> Pass:
    """Render and differentiate a random linear function of everything that comes out."""
    plain = None if background is None else background.clone().requires_grad_()
    out = render(field, cameras, size, backend=backend, background=plain, beta=beta, **options)
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(x.shape, generator=generator).to(x) for x in out]
    upstream[3] = 100 * upstream[3]
    leaves: dict[str, Tensor] = {n: p for n, p in field.named_parameters() if plain is None or n != "background"}
    leaves |= {} if plain is None else {"plain": plain}
    loss = torch.stack([(x * v).sum() for x, v in zip(out, upstream, strict=True)]).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return Pass([x.detach() for x in out], dict(zip(leaves, gradients, strict=True)), field.density.detach())


def doubled(
    field: VoxelField,
    cameras: Cameras,
    background: Tensor | None = None,  # [V, C]
) -> tuple[VoxelField, Cameras, Tensor | None]:
    """The same scene in float64."""
    twin = VoxelField.from_tensors(field.state_dict(), field.activation, field.density_shift)
    cameras = Cameras(cameras.c2w.double(), cameras.fov.double())
    return twin.to(field.box.device).double(), cameras, None if background is None else background.double()


def relative_rmse(value: Tensor, truth: Tensor, small: float = 1e-30) -> float:
    """Root mean square of the error over that of the truth plus `small`."""
    value, truth = value.double(), truth.double()
    return float((value - truth).square().mean().sqrt() / (truth.square().mean().sqrt() + small))


def errors(mine: Pass, truth: Pass) -> dict[str, float]:
    """The largest error of each output (relative to 1 + |truth|), and the relative RMSE of each gradient."""
    result, density = {}, truth.density
    for name, a, b in zip(("features", "depth", "opacity", "emptiness"), mine.outputs, truth.outputs, strict=True):
        assert bool(a.isfinite().all()), name
        result[name] = float(((a.double() - b).abs() / (1 + b.abs())).max()) if a.numel() else 0.0
    for name, b in truth.gradients.items():
        a = mine.gradients[name]
        assert a.shape == b.shape, name
        assert bool(a.isfinite().all()), name
        if name == "density_scale":  # one number, a sum over all samples of raw times a gradient, which cancels
            sizes = (truth.gradients["density"] * density).abs().sum() + density.abs().max().clamp_min(1)
            result[f"d {name}"] = float((a.double() - b).abs() / sizes)
        else:
            result[f"d {name}"] = relative_rmse(a, b, SMALL)
    return result


def assert_matches(
    mine: Pass, truth: Pass, value: float = VALUE, gradient: float = GRADIENT, features: float = FEATURE_FLIP
) -> None:
    """Everything within rounding, but for weights at the gate."""
    found = errors(mine, truth)
    for name, error in found.items():
        limit = features if name == "features" else value if name[:2] != "d " else gradient
        assert error < limit, f"{name}: {error:.2e}, allowed {limit:.0e}; all: {found}"
