"""From a volume to a mesh in its true colors, and figures that say how well it stands for the volume."""

from __future__ import annotations

from typing import Any

import torch
import trimesh
from torch import Tensor

from ..scene.cameras import Cameras, ring
from ..scene.field import VoxelField
from ..scores.protocol import ScoreModel
from .mesh import choose_iso, extract_mesh, keep_large, simplify
from .pictures import take_pictures
from .raycast import render_mesh, silhouettes
from .texture import bake, paint_vertices, photograph

Color = tuple[float, float, float]


def surface_of(
    field: VoxelField,
    model: ScoreModel,
    radius: float,
    fov: float,
    background: Color | None,
    *,
    size: int,
    iso: float | None = None,
    faces: int | None = None,
    texture: int | None = None,
    backend: str = "auto",
) -> tuple[trimesh.Trimesh, dict[str, Any]]:
    """The object's surface, its colors taken from decoded views of the volume, and its figures.

    Args:
        radius, fov: of the cameras that look at it, world units and degrees.
        background: behind the volume, RGB in [0, 1]; None for the field's own texture.
        size: pixels a side of the views that colors are taken from.
        iso: density of the surface; default the one with the volume's silhouettes.
        faces: reduce the surface to about so many.
        texture: texels a side of a UV texture; None for colors at the vertices.

    Returns:
        The mesh, and: iso, vertices, faces, watertight, psnr (dB, peak 1: the mesh's pictures against the volume's from
        8 cameras around it, over the same background).

    Raises:
        UserError: there is no surface, or not at `iso`.
    """
    level = choose_iso(field, radius, fov, backend) if iso is None else iso
    bare = keep_large(extract_mesh(field, level))
    if faces:
        bare = simplify(bare, faces)
    device = field.box.device

    def look(cameras: Cameras, side: int) -> Tensor:
        return take_pictures(field, model, cameras.to(device), side, background, backend)[0].cpu()

    voxel = float((field.box[1] - field.box[0]).mean()) / field.density.shape[-1]
    photographs = photograph(look, bare, radius, fov, size, 1.5 * voxel)
    mesh = bake(bare, photographs, texture) if texture else paint_vertices(bare, photographs)
    cameras = ring(8, 20.0, radius, fov)
    figures = {
        "iso": round(level, 4),
        "vertices": len(bare.vertices),
        "faces": len(bare.faces),
        "watertight": bool(bare.is_watertight),
        "psnr": round(agreement(mesh, look(cameras, min(size, 256)), cameras, background), 2),
    }
    return mesh, figures


def agreement(mesh: trimesh.Trimesh, volume: Tensor, cameras: Cameras, background: Color | None) -> float:
    """PSNR (dB, peak 1) between pictures of the mesh and of the volume, [V, 3, S, S], from the same cameras.

    Over a plain background whole pictures are compared; over a texture, which a mesh has not, the mesh's pixels.
    """
    side = volume.shape[-1]
    plain = torch.tensor(background or (0.0, 0.0, 0.0))
    squared = (render_mesh(mesh, cameras, side, plain) - volume).square().mean(dim=1)
    if background is None:
        return float(-10 * squared[silhouettes(mesh, cameras, side)].mean().log10())
    return float((-10 * squared.mean(dim=(1, 2)).log10()).mean())
