"""What the march executes, counted on the emulator of tests/ptx: ``python -m benchmarks.kernel_counts [--save]``.

One view of 64 x 64 pixels of 100^3 voxels with four features, at the paper's step, as compiled for sm_90: in the fog
that a run starts from, and with a solid ball in it. Counts, from which nothing is known of time but what bounds it.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch

from tests.ptx import device

from .report import save

SIZE, RESOLUTION, ARCH = 64, 100, 90


def count(solid: bool) -> dict[str, dict[str, Any]]:
    """Counts by kernel of a view and its way back."""
    from sjc_fast.kernels.contract import Gradients, Upstream
    from sjc_fast.kernels.march import march_accumulate, march_forward
    from sjc_fast.rendering.fused import march_settings, scene_of
    from sjc_fast.scene.cameras import ring
    from sjc_fast.scene.field import VoxelField

    field = VoxelField(RESOLUTION, 4, feature_std=0.1, generator=torch.Generator().manual_seed(0))
    if solid:
        axis = torch.linspace(-1, 1, RESOLUTION)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        with torch.no_grad():
            field.density += (0.6 - (x * x + y * y + z * z).sqrt()).clamp(-0.2, 0.2) * 100
    scene = scene_of(field, ring(1, 20.0, 1.5, 60.0)).detach()
    settings = march_settings(field, "triton", 10.0)
    grads = Gradients(
        torch.zeros_like(scene.density), torch.zeros(*scene.density.shape, 4), torch.zeros(4, 4, 4), torch.zeros(())
    )
    device.COUNTS = {}
    rendering, saved = march_forward(scene, height=SIZE, width=SIZE, **settings)
    upstream = Upstream(torch.randn_like(rendering.features), emptiness=torch.ones(1))
    march_accumulate(grads, scene, saved, upstream, **settings)
    return {name: summary(counts) for name, counts in device.COUNTS.items()}


def summary(counts: Any) -> dict[str, Any]:
    """Totals of a launch, and what of them belongs to one access."""
    found: dict[str, Any] = {"warps": counts.warps, "ptx_instructions": counts.instructions}
    for name, access in (("load", counts.loads), ("reduction", counts.reductions)):
        if access.requests:
            found[f"{name}s"] = dataclasses.asdict(access)
            found[f"lanes_a_{name}"] = access.lanes / access.requests
            found[f"addresses_a_{name}"] = access.addresses / access.requests
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/kernel_counts.json")
    options = parser.parse_args()
    device.install(ARCH)
    device.load_kernels()
    found = {name: count(solid) for name, solid in (("fog", False), ("solid", True))}
    for scene, kernels in found.items():
        for kernel, row in kernels.items():
            sectors = row.get("reductions", {}).get("sectors", 0)
            print(f"{scene:6} {kernel:16} {row['ptx_instructions'] / 1e6:6.2f} M instructions, ", end="")
            print(f"{row['loads']['sectors'] / 1e6:6.2f} M sectors loaded, {sectors / 1e6:5.2f} M reduced")
    if options.save:
        print(save("kernel_counts", {"arch": ARCH, "scenes": found}))


if __name__ == "__main__":
    main()
