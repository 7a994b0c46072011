"""pytest-benchmark: every op by backend and size, beside plain PyTorch: ``pytest benchmarks`` (or ``make benchmark``).

A group holds one job at one size; its rows are the backends. Floors are the bytes that the job has to move, counted by
hand, over the copy bandwidth of the same device in the same run; conftest.py prints them and the share reached.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sjc_fast.rendering import render
from sjc_fast.rendering.checks import make_field
from sjc_fast.scene.cameras import ring

from .work import count_work

CUDA = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
#: PyTorch on the CPU, PyTorch on CUDA, Triton on CUDA.
BACKENDS = [
    pytest.param("reference", "cpu", id="reference-cpu"),
    pytest.param("reference", "cuda", id="reference-cuda", marks=needs_cuda),
    pytest.param("triton", "cuda", id="triton-cuda", marks=needs_cuda),
]
#: The jobs that the compiled CPU code does too.
WITH_NATIVE = [*BACKENDS, pytest.param("cpu", "cpu", id="native-cpu")]
SIZES = [
    (1, 64, 40),
    (1, 64, 100),
    pytest.param(8, 64, 100, marks=needs_cuda),
    pytest.param(1, 256, 160, marks=needs_cuda),
]


def both_ways(out: Tensor, inputs: list[Tensor]) -> None:
    torch.autograd.grad(out, inputs, torch.ones_like(out))


@pytest.mark.parametrize("kind", ["fog", "solid"])
@pytest.mark.parametrize(("views", "size", "resolution"), SIZES)
@pytest.mark.parametrize(("backend", "device"), WITH_NATIVE)
@pytest.mark.parametrize("way", ["forward", "forward+backward"])
def bench_render(timed, backend, device, views, size, resolution, kind, way):
    """A rendering through the public call; fog is how training starts, solid how it ends."""
    field, cameras = make_field(kind, (resolution,) * 3).to(device), ring(views, 20, 1.5, 55.0).to(device)
    up = torch.ones(views, 4, size, size, device=device)

    def forward() -> Any:
        with torch.no_grad():
            return render(field, cameras, size, backend=backend)

    def both() -> None:
        out = render(field, cameras, size, backend=backend)
        torch.autograd.backward([out.features, out.emptiness.sum()], [up, None])

    work = count_work(field, cameras, size)
    moved = 8 * 4 * (work["samples"] + 4 * work["bright"])
    if way != "forward":
        moved += moved + 8 * 4 * (work["cells"] + 4 * work["bright_cells"])
    group = f"render {way}, {views} x {size}^2, {resolution}^3, {kind}"
    timed(group, device, moved, forward if way == "forward" else both)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("way", ["forward", "forward+backward"])
def bench_trilinear_sample(timed, backend, device, way):
    """2^18 points in 100^3 x 4; the plain one is grid_sample on the same numbers, channels first."""
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(1 << 18, 3, generator=generator) * 2 - 1).to(device)
    grid = torch.randn(100, 100, 100, 4, generator=generator).to(device).requires_grad_()
    if backend == "triton":
        from sjc_fast.kernels.trilinear import trilinear_sample as sample
    else:
        from sjc_fast.kernels.trilinear.reference import trilinear_sample as sample

    job = (lambda: sample(grid, points)) if way == "forward" else (lambda: both_ways(sample(grid, points), [grid]))
    moved = len(points) * (12 + 8 * 16 + 16) * (1 if way == "forward" else 2)
    timed(f"trilinear_sample {way}, 2^18 points, 100^3 x 4", device, moved, job)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("way", ["forward", "forward+backward"])
def bench_composite(timed, backend, device, way):
    """4096 rays of 256 samples of 4 channels."""
    generator = torch.Generator().manual_seed(0)
    density = (torch.rand(4096, 256, generator=generator) * 3).to(device).requires_grad_()
    features = torch.randn(4096, 256, 4, generator=generator).to(device).requires_grad_()
    behind, entry = torch.zeros(4096, 4, device=device), torch.ones(4096, device=device)
    if backend == "triton":
        from sjc_fast.kernels.composite import composite
    else:
        from sjc_fast.kernels.composite.reference import composite

    def shade() -> Tensor:
        return composite(density, features, behind, entry, step=0.01)[0]

    job = shade if way == "forward" else (lambda: both_ways(shade(), [density, features]))
    timed(
        f"composite {way}, 4096 x 256 x 4",
        device,
        density.numel() * 20 * (1 if way == "forward" else 3),
        job,
    )


@pytest.mark.parametrize(("backend", "device"), WITH_NATIVE)
@pytest.mark.parametrize("name", ["adamax", "adam"])
def bench_optimizer(timed, backend, device, name):
    """One step over 100^3 x 4 numbers, the gradient zeroed afterwards."""
    param, gradient = (torch.ones(100**3, 4, device=device) for _ in range(2))
    if backend != "reference":
        from sjc_fast.kernels.adamax import adam_step, adamax_step

        step = adamax_step if name == "adamax" else adam_step
        moments = [torch.zeros_like(param) for _ in range(2)]
        rate, count = torch.tensor(0.05, device=device), torch.tensor(1, device=device)

        def job() -> None:
            step(param, gradient, *moments, rate, count, backend=backend)
    else:
        param.requires_grad_()
        param.grad = gradient
        kinds = {"adamax": torch.optim.Adamax, "adam": torch.optim.Adam}
        optimizer = kinds[name]([param], lr=0.05)

        def job() -> None:
            optimizer.step()
            gradient.zero_()

    timed(f"{name} step, 100^3 x 4", device, param.numel() * 32, job)
