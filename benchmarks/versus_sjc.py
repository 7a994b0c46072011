"""The authors' renderer against ours: same field, camera and upstream gradients, in turn, in one process.

``python -m benchmarks.versus_sjc --sjc-repo PATH`` wants a checkout of github.com/pals-ttic/sjc, of which nothing is in
this repository, and writes results/versus_sjc.json. Theirs is timed from ready rays to a finished gradient; ours from
the camera on, through the public `render`.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from sjc_fast.errors import UserError
from sjc_fast.rendering import choose_backend, render
from sjc_fast.rendering.checks import make_field, relative_rmse
from sjc_fast.scene.cameras import Cameras, ring
from sjc_fast.scene.field import VoxelField

from .report import save
from .work import count_work, cpu_floors

BETA, EMPTINESS = 10.0, 1e4


@dataclass
class Options:
    """What is compared, and how often."""

    sjc_repo: Path
    size: int = 64
    resolution: int = 100
    repeats: int = 15
    name: str = "versus_sjc"


def their_modules(repo: Path) -> tuple[Any, Any]:
    """`voxnerf.vox` and `voxnerf.render` of a checkout.

    Raises:
        UserError: there is none at `repo`.
    """
    if not (repo / "voxnerf" / "vox.py").is_file():
        raise UserError(f"{repo} is not a checkout of pals-ttic/sjc: it has no voxnerf/vox.py")
    absent = {name: types.ModuleType(name) for name in ("einops", "tabulate") if not importlib.util.find_spec(name)}
    for module in absent.values():  # nothing that is timed calls them
        module.rearrange = module.tabulate = None
    sys.path.insert(0, str(repo))
    sys.modules.update(absent)
    try:
        return importlib.import_module("voxnerf.vox"), importlib.import_module("voxnerf.render")
    finally:
        sys.path.pop(0)
        for name in absent:
            del sys.modules[name]


@dataclass
class Upstream:
    """Gradients that come down to a view."""

    features: Tensor  # [1, 4, h, w]
    depth: Tensor  # [1, h, w]


class Theirs:
    """The authors' V_SD field and its ray bundle."""

    def __init__(self, modules: tuple[Any, Any], field: VoxelField, cameras: Cameras, size: int) -> None:
        vox, self.module = modules
        sides = list(reversed(field.density.shape))
        box = field.box.cpu().double().numpy()
        self.model = vox.V_SD(
            box, sides, step_ratio=0.5, density_shift=field.density_shift, c=4, blend_bg_texture=True, bg_texture_hw=4
        )
        self.model.density.data = field.density.detach()[None, None].clone()
        self.model.color.data = field.features.detach().permute(3, 0, 1, 2)[None].contiguous()
        self.model.bg.data = field.background.detach()[None].clone()
        self.model.d_scale.data = field.density_scale.detach().clone()
        self.model.to(field.box.device)
        focal = size / 2 / np.tan(np.radians(float(cameras.fov[0])) / 2)
        middle = size / 2 - 0.5
        intrinsics = np.array([[focal, 0, -middle], [0, -focal, -middle], [0, 0, -1]])
        pose = cameras.c2w[0].cpu().double().numpy()
        rays = self.module.scene_box_filter(*self.module.rays_from_img(size, size, intrinsics, pose), box.T)
        if len(rays[4]) != size * size:
            raise UserError("a ray misses the box, which the authors' emptiness loss counts otherwise")
        self.rays, self.size = self.module.as_torch_tsrs(field.box.device, *rays[:4]), size

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features [1, 4, h, w], depth [1, h, w] and emptiness []."""
        features, depth, weights = self.module.render_ray_bundle(self.model, *self.rays)
        image = features.T.reshape(1, 4, self.size, self.size)
        return image, depth.reshape(1, self.size, self.size), torch.log(1 + BETA * weights).mean()

    def leaves(self) -> dict[str, Tensor]:
        """Parameters, in our shapes."""
        m = self.model
        return {"density": m.density, "features": m.color, "background": m.bg, "density_scale": m.d_scale}

    def gradients(self) -> dict[str, Tensor]:
        """Theirs, in our shapes."""
        found = {name: leaf.grad for name, leaf in self.leaves().items()}
        shaped = {"density": found["density"][0, 0], "features": found["features"][0].permute(1, 2, 3, 0)}
        return found | shaped | {"background": found["background"][0]}


class Ours:
    """A field of ours, through the public call."""

    def __init__(self, field: VoxelField, cameras: Cameras, size: int, backend: str, step_ratio: float = 0.5) -> None:
        self.field, self.cameras, self.size = field, cameras, size
        self.options = {"backend": backend, "step_ratio": step_ratio}

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features, depth and emptiness."""
        out = render(self.field, self.cameras, self.size, beta=BETA, **self.options)
        return out.features, out.depth, out.emptiness[0]

    def leaves(self) -> dict[str, Tensor]:
        """Parameters."""
        return dict(self.field.named_parameters())

    def gradients(self) -> dict[str, Tensor]:
        """By parameter."""
        return {name: leaf.grad for name, leaf in self.leaves().items()}


def both_ways(renderer: Theirs | Ours, up: Upstream) -> None:
    """Forward, and backward into fresh gradients."""
    for leaf in renderer.leaves().values():
        leaf.grad = None
    features, depth, emptiness = renderer.forward()
    torch.autograd.backward([features, depth, emptiness], [up.features, up.depth, emptiness.new_tensor(EMPTINESS)])


def seconds(job: Callable[[], Any], device: torch.device) -> float:
    """Of one call, the device awaited."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    job()
    wait()
    return time.perf_counter() - start


def agreement(theirs: Theirs, ours: Ours, up: Upstream) -> dict[str, float]:
    """Largest differences of the outputs, and relative RMSE of the gradients."""
    both_ways(theirs, up), both_ways(ours, up)
    with torch.no_grad():
        pairs = zip(("features", "depth", "emptiness"), theirs.forward(), ours.forward(), strict=True)
        found = {name: float((a - b).abs().max()) for name, a, b in pairs}
    truth, mine = theirs.gradients(), ours.gradients()
    return found | {f"d {name}": relative_rmse(mine[name], truth[name]) for name in truth}


def rates() -> dict[str, float]:
    """Bytes a second of a large copy, and FLOP/s of matrix products in float32, on this CPU."""
    source, side = torch.zeros(1 << 25), 1536
    target, square = torch.empty_like(source), torch.ones(side, side)
    cpu = torch.device("cpu")
    return {
        "copy_bytes": 8 * source.numel() / median(seconds(lambda: target.copy_(source), cpu) for _ in range(9)),
        "matmul_flops": 2 * side**3 / median(seconds(lambda: square @ square, cpu) for _ in range(9)),
    }


def cached(kind: str, options: Options) -> dict[str, list[float]]:
    """Ours on the CPU with as many samples in a grid that fits the caches: what is left is not memory."""
    small = options.resolution * 32 // 100
    field, cameras = make_field(kind, (small,) * 3), ring(1, 20.0, 1.5, 55.0)
    ours = Ours(field, cameras, options.size, "cpu", 0.5 * small / options.resolution)
    up, times = upstream(options.size), {"forward": [], "both": []}
    for _ in range(options.repeats + 1):
        with torch.no_grad():
            times["forward"].append(seconds(ours.forward, field.box.device))
        times["both"].append(seconds(lambda: both_ways(ours, up), field.box.device))
    return {way: taken[1:] for way, taken in times.items()}


def upstream(size: int, device: torch.device | str = "cpu") -> Upstream:
    """Random ones."""
    generator = torch.Generator().manual_seed(0)
    return Upstream(*(torch.randn(s, generator=generator).to(device) for s in ((1, 4, size, size), (1, size, size))))


def compare(modules: tuple[Any, Any], kind: str, device: torch.device, options: Options) -> dict[str, Any]:
    """One scene on one device: every renderer's times, taken in turn, and what they agree to."""
    field = make_field(kind, (options.resolution,) * 3).to(device)
    cameras = ring(1, 20.0, 1.5, 55.0).to(device)
    up = upstream(options.size, device)
    fast = choose_backend("auto", device)
    renderers: dict[str, Theirs | Ours] = {"theirs": Theirs(modules, field, cameras, options.size)}
    renderers |= {b: Ours(field, cameras, options.size, b) for b in dict.fromkeys((fast, "reference"))}
    times: dict[str, dict[str, list[float]]] = {n: {"forward": [], "both": []} for n in renderers}
    for _ in range(options.repeats + 1):
        for name, renderer in renderers.items():
            with torch.no_grad():
                times[name]["forward"].append(seconds(renderer.forward, device))
            times[name]["both"].append(seconds(lambda renderer=renderer: both_ways(renderer, up), device))
    times = {n: {way: taken[1:] for way, taken in rows.items()} for n, rows in times.items()}  # the first warms up
    ratios = {
        f"{base} / {fast}, {way}": median(a / b for a, b in zip(times[base][way], times[fast][way], strict=True))
        for base in ("theirs", "reference")
        for way in ("forward", "both")
    }
    row = {"scene": kind, "device": str(device), "backend": fast, "ratios": ratios, "seconds": times}
    row["work"] = count_work(field, cameras, options.size)
    if fast == "cpu":
        row["rates"] = rates()
        row["floors"] = cpu_floors(row["work"], field, row["rates"])
        row["share_of_floor"] = {
            way: floor["seconds"] / median(times[fast][way]) for way, floor in row["floors"].items()
        }
        row["cached_seconds"] = cached(kind, options)
    return row | {"agreement": agreement(renderers["theirs"], renderers[fast], up)}


def main(options: Options) -> None:
    """Compare on every device, print, and write JSON."""
    warnings.filterwarnings("ignore", "Default grid_sample")
    try:
        modules = their_modules(options.sjc_repo.resolve())
    except UserError as error:
        print(f"versus_sjc: {error}", file=sys.stderr)
        sys.exit(2)
    rows = []
    for device in [torch.device(d) for d in ("cpu", "cuda") if d == "cpu" or torch.cuda.is_available()]:
        for kind in ("fog", "solid"):
            row = compare(modules, kind, device, options)
            rows.append(row)
            for name, taken in row["seconds"].items():
                print(f"{kind} {device} {name:10}", *(f"{w} {1e3 * median(t):7.1f} ms" for w, t in taken.items()))
            print(*(f"  {name}: {value:.1f}" for name, value in row["ratios"].items()), sep="\n")
            for way, floor in row.get("floors", {}).items():
                reached, cached_time = row["share_of_floor"][way], median(row["cached_seconds"][way])
                print(f"  {way}: floor {1e3 * floor['seconds']:.1f} ms, {100 * reached:.0f}% reached;", end=" ")
                print(f"in a grid that fits the caches {1e3 * cached_time:.1f} ms")
            print("  agreement:", *(f"{name} {value:.1e}" for name, value in row["agreement"].items()), flush=True)
    shape = {"size": options.size, "resolution": options.resolution, "repeats": options.repeats}
    print(save(options.name, {**shape, "rows": rows}))


if __name__ == "__main__":
    main(tyro.cli(Options))
