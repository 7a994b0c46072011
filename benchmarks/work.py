"""How much a rendering has to read, add and compute: the floors that kernels are held against."""

from __future__ import annotations

from typing import Any

import torch

from sjc_fast.rendering.rays import intersect_box
from sjc_fast.rendering.reference import EARLY_STOP, GATE, normalize, sample_grid
from sjc_fast.scene.cameras import Cameras
from sjc_fast.scene.field import VoxelField

UPDATE_BYTES = 4 * 4 + 4 * 4  # an optimizer step of one float32 number: four read, four written


@torch.no_grad()
def count_work(field: VoxelField, cameras: Cameras, size: int) -> dict[str, int]:
    """Samples marched before the early stop, those that fetch features, and the runs of either within one cell."""
    step = field.step_size()
    origins, directions = cameras.rays(size, size)
    sides = torch.tensor(field.density.shape[::-1], device=origins.device)
    totals = torch.zeros(4, dtype=torch.int64, device=origins.device)
    for v in range(len(cameras)):
        for rays in directions[v].reshape(-1, 3).split(1 << 14):
            t_min, t_max = intersect_box(origins[v], rays, field.box)
            span = torch.where(t_min < t_max, t_max - t_min, 0.0)
            offset = torch.arange(int(span.max() / step) + 1, device=rays.device) * step
            inside = offset < span[:, None]
            t = torch.where(span > 0, t_min, 0.0)[:, None] + offset
            points = normalize(origins[v] + t[..., None] * rays[:, None], field.box)
            raw = sample_grid(field.density[None], points.reshape(-1, 3))[0].reshape(t.shape)
            thickness = torch.where(inside, field.activate_density(raw) * step, 0.0)
            transmittance = torch.exp(thickness - thickness.cumsum(1))
            marched = inside & (transmittance >= EARLY_STOP)
            bright = marched & (transmittance * -torch.expm1(-thickness) > GATE)
            cell = (((points + 1) * sides - 1) / 2).floor()
            moved = torch.ones_like(marched)
            moved[:, 1:] = (cell[:, 1:] != cell[:, :-1]).any(dim=-1)
            run = moved.cumsum(1)  # the runs of a ray, numbered from 1
            lit = torch.zeros(len(rays), run.shape[1] + 1, dtype=torch.bool, device=rays.device)
            lit.scatter_(1, torch.where(bright, run, 0), True)
            totals += torch.stack([marched.sum(), bright.sum(), (marched & moved).sum(), lit[:, 1:].sum()])
    return dict(zip(("samples", "bright", "cells", "bright_cells"), totals.tolist(), strict=True))


#: Floating-point operations of the C++ march (csrc/kernels.inc), counted by hand, a multiply-add as two, with four raw
#: features: forward; gradients at the samples; their addition to the voxels. Of a sample, and more if it has features.
CPU_FORWARD, CPU_GRADIENTS, CPU_SCATTER = (139, 90), (142, 90), (91, 16)
CPU_FLUSH = (8, 64)  # of a run within one cell, and more if it has features


def cpu_floors(work: dict[str, int], field: VoxelField, rates: dict[str, float]) -> dict[str, Any]:
    """Seconds that arithmetic alone takes at the rate of matrix products, and memory traffic at that of a copy.

    Memory: every number of the grids is read once forward and once backward, and its gradient cleared, read and
    written. The floor is the longer of the two.
    """

    def operations(*parts: tuple[int, int]) -> int:
        return sum(each * work["samples"] + more * work["bright"] for each, more in parts)

    numbers = 4 * (field.density.numel() + field.features.numel())
    flops = {"forward": operations(CPU_FORWARD)}
    flops["both"] = operations(CPU_FORWARD, CPU_GRADIENTS, CPU_SCATTER)
    flops["both"] += CPU_FLUSH[0] * work["cells"] + CPU_FLUSH[1] * work["bright_cells"]
    moved = {"forward": numbers, "both": 5 * numbers}
    return {
        way: {
            "flops": flops[way],
            "bytes": moved[way],
            "seconds": max(flops[way] / rates["matmul_flops"], moved[way] / rates["copy_bytes"]),
        }
        for way in flops
    }


def floors(work: dict[str, int], field: VoxelField, rates: dict[str, Any], half: bool) -> dict[str, float]:
    """Seconds that the reads, reductions and memory traffic alone take at the rates measured in the same run.

    forward: every corner gathered, or the grids read once from memory, whichever is longer. backward: gathers and
    reductions (of merged runs) share the path to the L2 cache, so their times add. step: both, and the optimizer's.
    """
    suffix = "_half" if half else ""
    gather = work["samples"] / rates[f"gather_scalar{suffix}_cells"]
    gather += work["bright"] / rates[f"gather_vector{suffix}_cells"]
    reduce = work["cells"] / rates["reduce_scalar_cells"] + work["bright_cells"] / rates["reduce_vector_cells"]
    numbers = field.density.numel() + field.features.numel()
    once = min(numbers, 40 * work["samples"]) * (2 if half else 4) / rates["copy_bytes"]
    update = (numbers * UPDATE_BYTES + (2 * numbers if half else 0)) / rates["copy_bytes"]
    forward, backward = max(gather, once), max(gather + reduce, once)
    return {"forward": forward, "backward": backward, "step": forward + backward + update}
