"""Sections of the GPU script that need the kernels alone: what they compute, and how long they take."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from statistics import median
from typing import Any

import torch

from sjc_fast.kernels import adamax, unet
from sjc_fast.kernels import bricks as skippable
from sjc_fast.kernels import march as marching
from sjc_fast.kernels.composite import composite
from sjc_fast.kernels.composite import reference as composite_reference
from sjc_fast.kernels.contract import Gradients, Scene, Upstream
from sjc_fast.kernels.march import launch
from sjc_fast.kernels.noise import normal
from sjc_fast.kernels.paas import Coefficients, fused_paas_update, perturb
from sjc_fast.kernels.trilinear import trilinear_sample
from sjc_fast.kernels.unet import reference as unet_reference
from sjc_fast.rendering import render
from sjc_fast.rendering.checks import (
    FEATURE_FLIP,
    GRADIENT,
    SMALL,
    VALUE,
    doubled,
    errors,
    make_cameras,
    make_field,
    relative_rmse,
    run,
)
from sjc_fast.rendering.fused import scene_of

from .device import capture, measure_rates
from .session import Session
from .work import count_work, floors

# Triton's code, also where there is no GPU: toy sizes go through its interpreter, not through the C++ code.
march, march_forward, march_accumulate, march_skip, adamax_step, adam_step, adamax_steps, brick_maximum = (
    functools.partial(function, backend="triton")
    for function in (
        marching.march, marching.march_forward, marching.march_accumulate, marching.march_skip,
        adamax.adamax_step, adamax.adam_step, adamax.adamax_steps, skippable.brick_maximum,
    )
)  # fmt: skip


def numerics(s: Session) -> list[dict[str, Any]]:
    """The march, values and gradients, against the reference in float64 at production size."""
    size, resolution = (4, 4) if s.small else (64, 100)
    scenes = [("fog", 4, "ring"), ("solid", 4, "ring"), ("solid", 3, "ring"), ("random", 4, "inside")]
    found = []
    for kind, channels, where in scenes[1:3] if s.small else scenes:
        field = s.field(kind, resolution, channels)
        cameras = s.cameras(1 if s.small else 3) if where == "ring" else make_cameras("inside").to(s.device)
        twin, twin_cameras, _ = doubled(field, cameras)
        error = errors(run(field, cameras, size, "triton"), run(twin, twin_cameras, size, "reference"))
        limits = {n: GRADIENT if n.startswith("d ") else FEATURE_FLIP if n == "features" else VALUE for n in error}
        found.append({"scene": f"{kind}, C={channels}, {where}", "errors": error,
                      "passes": all(error[n] < limits[n] for n in error)})  # fmt: skip
    return found


def operations(s: Session) -> list[dict[str, Any]]:
    """trilinear_sample, composite and the optimizer steps against PyTorch, and how long they take."""
    points_count, resolution, rays, samples = (200, 6, 20, 9) if s.small else (1 << 20, 100, 4096, 256)
    device, generator = s.device, torch.Generator().manual_seed(0)
    grid = torch.randn(resolution, resolution, resolution, 4, generator=generator).to(device)
    points = (torch.rand(points_count, 3, generator=generator) * 2 - 1).to(device)

    def plain_sample(grid, points):
        lookup = grid.permute(3, 0, 1, 2)[None]
        return torch.nn.functional.grid_sample(lookup, points[None, None, None], align_corners=False)[0, :, 0, 0].T

    found = differentiable(s, "trilinear_sample", trilinear_sample, plain_sample, [grid, points], to=1, limit=2e-4)

    density = (torch.rand(rays, samples, generator=generator) * 3).to(device)
    features = torch.randn(rays, samples, 4, generator=generator).to(device)
    behind, entry = torch.zeros(rays, 4, device=device), torch.ones(rays, device=device)
    found += differentiable(
        s,
        "composite",
        lambda *x: composite(*x, step=0.01).features,
        lambda *x: composite_reference.composite(*x, step=0.01)[0],
        [density, features, behind, entry],
        to=3,
        limit=1e-3,  # a weight at the gate may fall on either side of it, with a feature of size 5 or more
    )
    with torch.no_grad():
        opacity = 1 - torch.exp(-(density.double() * 0.01).sum(1))
        error = float((composite(density, features, behind, entry, step=0.01).opacity - opacity).abs().max())
    found.append({"op": "composite, opacity", "error": error, "limit": 1e-5})

    for name, step, kind in (("adamax", adamax_step, torch.optim.Adamax), ("adam", adam_step, torch.optim.Adam)):
        param = torch.randn(resolution**3, 4, generator=generator).to(device)
        twin = param.clone().requires_grad_()
        theirs, moments = kind([twin], lr=0.05), [torch.zeros_like(param) for _ in range(2)]
        rate = torch.tensor(0.05, device=device)
        for k in range(1, 4):
            gradient = torch.randn(param.shape, generator=generator).to(device)
            twin.grad = gradient.clone()
            theirs.step()
            step(param, gradient, *moments, rate, torch.tensor(k, device=device))
        error = float((param - twin.detach()).abs().max())
        found.append({"op": name, "error": error, "limit": 1e-5, **time_update(s, step, resolution)})
    found += [*batches(s), field_step(s), *between_products(s)]
    for entry_ in found:
        entry_["passes"] = entry_["error"] < entry_["limit"]
    return found


def differentiable(s: Session, name: str, mine, plain, tensors: list, to: int, limit: float) -> list[dict]:
    """An op against its plain version in float64, values and gradients (to the first `to` tensors), and its times."""
    leaves = [t.requires_grad_() for t in tensors[:to]]
    exact = [t.detach().double().requires_grad_() for t in tensors]
    out, truth = mine(*tensors), plain(*exact)
    up = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    gradients = torch.autograd.grad(out, leaves, up)
    expected = torch.autograd.grad(truth, exact[:to], up.double())
    error = max(relative_rmse(a, b, SMALL) for a, b in zip(gradients, expected, strict=True))

    def forward():
        with torch.no_grad():
            return mine(*tensors)

    def both():
        return torch.autograd.grad(mine(*tensors), leaves, up)

    value = float((out - truth).detach().abs().max())
    return [
        {"op": name, "error": value, "limit": limit, "seconds": s.clock.samples(forward)},
        {"op": f"{name}, forward and backward", "error": error, "limit": GRADIENT, "seconds": s.clock.eager(both)},
    ]


def batches(s: Session) -> list[dict[str, Any]]:
    """perturb and the PAAS update against plain versions at Stable Diffusion's size, N = 1 and 8 with guidance."""
    found = []
    for samples in (2,) if s.small else (1, 8):
        x = torch.randn(1, 4, *(2 * ([4] if s.small else [64])), device=s.device)
        sigma, g = torch.tensor([2.5], device=s.device), torch.tensor(100.0, device=s.device)
        seed, step = torch.tensor(7, device=s.device), torch.tensor(3, device=s.device)
        numbers = epsilon_coefficients(sigma)
        noise = normal(7, 3, samples * x.numel(), s.device).reshape(1, samples, *x.shape[1:])

        def ask(x=x, sigma=sigma, numbers=numbers, seed=seed, step=step, samples=samples):
            return perturb(x, sigma, numbers.c_in, seed, step, noise_samples=samples, doubled=True)

        batch = ask()
        exact = ((x[:, None] + 2.5 * noise) / (1 + 2.5**2) ** 0.5).flatten(0, 1)
        error = float((batch[:samples].float() - exact).abs().max())
        found.append({"op": f"perturb, N = {samples}", "error": error, "limit": 5e-3, "seconds": s.clock.samples(ask)})

        rest = (numbers, 1 / sigma, batch, seed, step, g)

        def answer(x=x, sigma=sigma, rest=rest, samples=samples):
            return fused_paas_update(x, sigma, *rest, noise_samples=samples)

        cond, uncond = batch.double().chunk(2)
        said = (uncond + 100 * (cond - uncond)).reshape(noise.shape)
        error = float((answer() - (noise - said).mean(1)).abs().max())
        found.append(
            {"op": f"paas update, N = {samples}", "error": error, "limit": 1e-3, "seconds": s.clock.samples(answer)}
        )
    return found


def field_step(s: Session) -> dict[str, Any]:
    """The optimizer step of a whole field in one launch against PyTorch's, a step after another."""
    side = 5 if s.small else 100
    generator = torch.Generator().manual_seed(0)
    shapes = [(side, side, side), (side, side, side, 4), (), (4, 4, 4)]
    params = [torch.randn(shape, generator=generator).to(s.device) for shape in shapes]
    twins = [param.clone().requires_grad_() for param in params]
    theirs = torch.optim.Adamax(twins, lr=0.05)
    rate, step = torch.tensor(0.05, device=s.device), torch.tensor(1, device=s.device)
    texture = torch.empty(4, 4, 4, device=s.device).permute(2, 0, 1)  # as the march lays it out
    grads = [*(torch.empty_like(param) for param in params[:3]), texture]
    moves = [
        adamax.Move(param, grad, torch.zeros_like(param), torch.zeros_like(param), rate)
        for param, grad in zip(params, grads, strict=True)
    ]
    for grad, twin in zip(grads, twins, strict=True):
        grad.copy_(torch.randn(grad.shape, generator=generator))
        twin.grad = grad.clone(memory_format=torch.contiguous_format)
    theirs.step()
    adamax_steps(moves, step)
    error = max(float((param - twin.detach()).abs().max()) for param, twin in zip(params, twins, strict=True))
    row = {"op": "adamax of a field", "error": error, "limit": 1e-5}
    seconds = s.clock.samples(lambda: adamax_steps(moves, step))
    return row | {"seconds": seconds, "bytes": 8 * 4 * sum(param.numel() for param in params)}


def between_products(s: Session) -> list[dict[str, Any]]:
    """Normalizations and gate of Stable Diffusion's UNet, of a large and a small map, against PyTorch in float32."""
    found = []
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, 64)] if s.small else [(64, 320), (8, 1280)]
    for side, channels in sizes:

        def numbers(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(s.device, torch.float16)

        x, residual = numbers(2, side, side, channels), numbers(2, side, side, channels)
        weight, offset, bias = (numbers(channels) for _ in range(3))
        norm = (weight, offset, 32, 1e-5)

        def normalize(x=x, norm=norm, residual=residual, bias=bias):
            return unet.group_norm(x, *norm, residual=residual, bias=bias, silu=True)[0]

        wide = [t.float() for t in (x, weight, offset, residual, bias)]
        exact = unet_reference.group_norm(wide[0], *wide[1:3], *norm[2:], residual=wide[3], bias=wide[4], silu=True)[0]
        calls = {"group_norm": (normalize, exact)}
        rows = x.flatten(1, 2)
        exact = unet_reference.layer_norm(rows.float(), *wide[1:3], 1e-5)[0]
        calls["layer_norm"] = (functools.partial(unet.layer_norm, rows, weight, offset, 1e-5), exact)
        calls["geglu"] = (functools.partial(unet.geglu, rows), unet_reference.geglu(rows.float()))
        for name, (call, truth) in calls.items():
            error = float((call().float() - truth).abs().max())
            row = {"op": f"{name}, {side}^2 x {channels}", "error": error, "limit": 0.02}  # a rounding of size 8
            found.append(row | {"seconds": s.clock.samples(call)})
    return found


def epsilon_coefficients(sigma: torch.Tensor) -> Coefficients:
    """Of a network that predicts the noise, at noise levels [V]."""
    one = torch.ones_like(sigma)
    return Coefficients((1 + sigma**2).rsqrt(), one, 0 * one, -sigma, 500 * one)


def time_update(s: Session, step, resolution: int) -> dict[str, Any]:
    """One optimizer step over density-sized rows of 4, with the half-precision copy; its bytes, and the plain one."""
    param, gradient, first, second = (torch.ones(resolution**3, 4, device=s.device) for _ in range(4))
    copy, rate = torch.empty_like(param, dtype=torch.float16), torch.tensor(0.05, device=s.device)
    count = torch.ones((), dtype=torch.int64, device=s.device)
    taken = s.clock.both(lambda: step(param, gradient, first, second, rate, count, copy=copy))
    plain = torch.optim.Adamax([param.clone().requires_grad_()], lr=0.05, foreach=True)
    plain.param_groups[0]["params"][0].grad = gradient.clone()
    return {
        "bytes": param.numel() * (32 + 2),
        "seconds": taken.get("cold", taken["warm"]),
        "torch_adamax_seconds": s.clock.eager(plain.step),
    }


def determinism(s: Session) -> dict[str, Any]:
    """Fixed-point gradients: the same bits twice, and how much slower than float32 reductions."""
    size, resolution = (4, 4) if s.small else (64, 100)
    field, cameras = s.field("random", resolution), s.cameras(1 if s.small else 2)
    leaves = (field.density, field.features, field.background, field.density_scale)

    def gradients(deterministic: bool):
        out = march(tensors, height=size, width=size, step=field.step_size(),
                    deterministic=deterministic)  # fmt: skip
        return torch.autograd.grad(out.features.square().sum() + 1e4 * out.emptiness.sum(), leaves)

    tensors = scene_of(field, cameras)
    twice = [gradients(True) for _ in range(2)]
    same = all(torch.equal(a, b) for a, b in zip(*twice, strict=True))
    differences = [relative_rmse(a, b) for a, b in zip(twice[0], gradients(False), strict=True)]
    return {
        "passes": same and max(differences) < 1e-4,
        "same_bits": same,
        "relative_rmse_to_float": differences,
        "deterministic_seconds": s.clock.eager(lambda: gradients(True)),
        "float_seconds": s.clock.eager(lambda: gradients(False)),
    }


def rates(s: Session) -> dict[str, Any]:
    """What the device can do: the figures that floors are made of."""
    return {
        str(r): measure_rates(s.clock, r, 1 << 12 if s.small else 1 << 22)
        for r in ((4,) if s.small else (100, 160, 256))
    }


def training_step(field, cameras, size: int, half: bool):
    """Forward, backward and optimizer of one training step as closures over persistent buffers; no autograd."""
    scene = scene_of(field, cameras).detach()
    masters = [t.clone() for t in (scene.density, scene.features, scene.background, scene.log_scale)]
    density, features, background, log_scale = masters
    reads = [t.half() if half else t.clone() for t in (density, features)]
    tensors = Scene(*reads, background, log_scale, scene.c2w, scene.fov, scene.box)
    device = field.box.device
    shapes = (masters[0].shape, (*masters[0].shape, 4), (4, 4, 4), ())
    grads = Gradients(*(torch.zeros(x, device=device) for x in shapes))
    moments = [[torch.zeros_like(m) for _ in range(2)] for m in masters]
    rate, count = torch.full((), 1e-5, device=device), torch.ones((), dtype=torch.int64, device=device)
    up = torch.randn(len(cameras), 4, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    upstream = Upstream(up, emptiness=torch.full((len(cameras),), 1e4, device=device))
    options = {"step": field.step_size(), "density_shift": field.density_shift}
    _, saved = march_forward(tensors, height=size, width=size, **options)

    def forward():
        return march_forward(tensors, height=size, width=size, **options)

    def backward():
        march_accumulate(grads, tensors, saved, upstream, **options)

    def update():
        texture = grads.texture.permute(2, 0, 1).contiguous()
        for i, grad in enumerate((grads.density, grads.features, texture, grads.log_scale)):
            copy = reads[i] if half and i < 2 else None
            adamax_step(masters[i], grad, *moments[i], rate, count, copy=copy)
        grads.texture.zero_()

    def step():
        march_accumulate(grads, tensors, forward()[1], upstream, **options)
        update()

    buffers = {"masters": masters, "grads": grads}
    return {"forward": forward, "backward": backward, "update": update, "step": step, **buffers}


def paper_times(s: Session) -> list[dict[str, Any]]:
    """Forward, backward and step at the paper's setting: one view of 64 x 64 pixels, a grid of 100^3."""
    size, resolution = (4, 4) if s.small else (64, 100)
    return [time_case(s, size, 1, resolution, kind, half=False) for kind in s.kinds]


def march_times(s: Session) -> list[dict[str, Any]]:
    """Forward, backward and step over sizes, grids and scenes, beside their floors."""
    cases = [(64, 1), (64, 4), (64, 8), (256, 1)]
    resolutions, cases = ((4,), [(4, 1)]) if s.small else ((100, 160, 256), cases)
    found = []
    for resolution in resolutions:
        for size, views in cases:
            for kind in s.kinds:
                if s.late:
                    return [*found, {"note": "out of time: the rest was not measured"}]
                for half in (False, True):
                    found.append(time_case(s, size, views, resolution, kind, half))
                    s.result["march"] = found
                    s.save()
    return found


def time_case(s: Session, size: int, views: int, resolution: int, kind: str, half: bool) -> dict[str, Any]:
    """One row: medians in microseconds, cold and warm, floor and share, peak memory of a step beyond what it holds."""
    field, cameras = s.field(kind, resolution), s.cameras(views)
    work = count_work(field, cameras, size)
    rates_here = s.result.get("rates", {}).get(str(resolution))
    least = floors(work, field, rates_here, half) if rates_here else {}
    parts = training_step(field, cameras, size, half)
    row: dict[str, Any] = {"size": size, "views": views, "grid": resolution, "scene": kind,
                           "precision": "fp16" if half else "fp32", "work": work}  # fmt: skip
    if s.device.type == "cuda":
        parts["step"]()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        parts["step"]()
        row["peak_bytes"] = torch.cuda.max_memory_allocated() - held
    for name in ("forward", "backward", "update", "step"):
        for state, taken in s.clock.both(parts[name]).items():
            row[f"{name}_{state}_us"] = 1e6 * median(taken)
            row.setdefault("samples_us", {})[f"{name}_{state}"] = [1e6 * t for t in taken]
        if name in least:
            row[f"{name}_floor_us"] = 1e6 * least[name]
            row[f"{name}_share_of_floor"] = 1e6 * least[name] / row[f"{name}_warm_us"]
    return row


def reference_times(s: Session) -> list[dict[str, Any]]:
    """The reference autograd renderer and the fused one, forward and backward, through the same public call."""
    cases = [(4, 1, 4)] if s.small else [(64, 1, 100), (64, 8, 100)]
    found = []
    for size, views, resolution in cases:
        for kind in s.kinds:
            row = {"size": size, "views": views, "grid": resolution, "scene": kind}
            for backend in ("reference", "triton"):
                field, cameras = s.field(kind, resolution), s.cameras(views)
                up = torch.ones(views, 4, size, size, device=s.device)

                def both(field=field, cameras=cameras, up=up, backend=backend, size=size):
                    field.zero_grad(set_to_none=True)
                    out = render(field, cameras, size, backend=backend)
                    torch.autograd.backward([out.features, out.emptiness.sum()], [up, None])

                row[f"{backend}_seconds"] = s.clock.eager(both, 2 if s.small else 10)
                if s.device.type == "cuda":
                    field.zero_grad(set_to_none=True)
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                    held = torch.cuda.memory_allocated()
                    both()
                    row[f"{backend}_peak_bytes"] = torch.cuda.max_memory_allocated() - held
            found.append(row)
    return found


def plans(s: Session) -> list[dict[str, Any]]:
    """Lanes and segments: which split of the rays is fastest, for the table in `march.launch.split`."""
    sizes = [(4, 1, 4)] if s.small else [(64, 1, 100), (64, 8, 100), (256, 1, 100)]
    choices = [(2, 2)] if s.small else [(n, n) for n in (1, 2, 4, 8, 16, 32)]
    choices += [] if s.small else [(16, 8), (32, 8), (32, 16), (8, 16), (8, 32), (16, 32)]
    found, usual = [], launch.split
    try:
        for size, views, resolution in sizes:
            for kind in s.kinds:
                for lanes, segments in choices:
                    if s.late:
                        return [*found, {"note": "out of time: the rest was not measured"}]
                    launch.split = lambda _rays, plan=(lanes, segments): plan
                    parts = training_step(s.field(kind, resolution), s.cameras(views), size, half=True)
                    row = {
                        "size": size,
                        "views": views,
                        "grid": resolution,
                        "scene": kind,
                        "lanes": lanes,
                        "segments": segments,
                    }
                    row |= {f"{n}_us": 1e6 * median(s.clock.samples(parts[n])) for n in ("forward", "backward")}
                    found.append(row)
    finally:
        launch.split = usual
    return found


def skipping(s: Session) -> list[dict[str, Any]]:
    """Pictures with and without empty-space skipping: time, and the largest difference in opacity."""
    size, resolution = (4, 9) if s.small else (512, 100)
    found = []
    for kind in s.kinds:
        field, cameras = s.field(kind, resolution), s.cameras(1)
        scene, options = scene_of(field, cameras), {"height": size, "width": size, "step": field.step_size()}
        with torch.no_grad():
            bricks = brick_maximum(scene.density)
            difference = (march(scene, **options).opacity - march_skip(scene, bricks, **options).opacity).abs().max()
            found.append({
                "scene": kind, "size": size, "grid": resolution, "opacity_difference": float(difference),
                "passes": float(difference) < 1e-5 * 3.5 * resolution,
                "plain_seconds": s.clock.samples(lambda t=scene, o=options: march(t, **o)),
                "skipping_seconds": s.clock.samples(lambda t=scene, b=bricks, o=options: march_skip(t, b, **o)),
                "bricks_seconds": s.clock.samples(lambda t=scene: brick_maximum(t.density)),
            })  # fmt: skip
    return found


def graphs(s: Session) -> dict[str, Any]:
    """A captured step does what the eager one does, and no part of it waits for the device."""
    if s.device.type != "cuda":
        return {"note": "needs a GPU"}
    field, cameras = s.field("solid", 100), s.cameras(2)
    parts = training_step(field, cameras, 64, half=True)
    parts["step"]()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        parts["step"]()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    held = []
    replay = capture(lambda: held.append(parts["forward"]()))
    replay()
    eager = parts["forward"]()
    same = all(torch.equal(a, b) for a, b in zip(held[-1][0], eager[0], strict=True))
    replay = capture(parts["step"])
    before = [m.clone() for m in parts["masters"]]
    replay()
    torch.cuda.synchronize()
    moved = [not torch.equal(a, b) for a, b in zip(before, parts["masters"], strict=True)]
    finite = all(bool(m.isfinite().all()) for m in parts["masters"])
    cleared = not any(bool(g.any()) for g in parts["grads"])
    passes = same and all(moved) and finite and cleared
    return {"passes": passes, "no_sync": True, "forward_same": same, "step_moved": moved, "gradients_cleared": cleared}


def sanitizer(s: Session) -> dict[str, Any]:
    """compute-sanitizer over small launches of every kernel."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if s.device.type != "cuda" or tool is None:
        return {"note": "compute-sanitizer is not installed" if s.device.type == "cuda" else "needs a GPU"}
    found, passes = {}, True
    environment_ = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # so that every tensor has bounds of its own
    for check in ("memcheck", "racecheck", "initcheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-m", __name__]
        left = s.left
        if left < 20:
            found[check] = {"note": "out of time"}
            continue
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=min(60, left), env=environment_
            )
            found[check] = {"returncode": done.returncode, "tail": done.stdout[-600:] + done.stderr[-300:]}
            passes &= done.returncode == 0 or check == "initcheck"  # which also counts what PyTorch copies unread
        except subprocess.TimeoutExpired:
            found[check] = {"note": "stopped after its share of the time"}
    return found | {"passes": passes}


def touch() -> None:
    """Launch every kernel once at a small size."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for kind, channels in (("solid", 4), ("random", 3)):
        run(make_field(kind, (9, 10, 11), channels).to(device), make_cameras("outside").to(device), 9, "triton")
    field, cameras = make_field("solid", (17, 18, 19)).to(device), make_cameras("inside").to(device)
    render(field, cameras, 9, backend="triton", skip_empty=True)
    training_step(field, cameras, 8, half=True)["step"]()
    points = torch.rand(70, 3, device=device).requires_grad_()
    trilinear_sample(field.features, points).sum().backward()
    density = torch.rand(5, 33, device=device).requires_grad_()
    features, behind, entry = (torch.rand(x, device=device) for x in ((5, 33, 4), (5, 4), (5,)))
    composite(density, features, behind, entry, step=0.1).features.sum().backward()
    x, sigma, number = (
        torch.rand(2, 4, 6, 6, device=device),
        torch.ones(2, device=device),
        torch.tensor(1, device=device),
    )
    numbers = epsilon_coefficients(sigma)
    batch = perturb(x, sigma, numbers.c_in, number, number, noise_samples=2, antithetic=True, doubled=True)
    fused_paas_update(x, sigma, numbers, sigma, batch, number, number, sigma[0], noise_samples=2, antithetic=True)


if __name__ == "__main__":
    touch()
