"""True colors for a mesh: pictures of the volume, decoded to RGB, put back onto the surface they were taken of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
import xatlas
from PIL import Image
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue] - compiled, without types
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d
from trimesh.visual.material import PBRMaterial
from trimesh.visual.texture import TextureVisuals

from ..scene.cameras import Cameras, orbit
from .raycast import camera_hits, first_hits

#: Elevations of the rings of views that colors are taken from, degrees, and views in each.
RINGS, AROUND = (-50.0, -15.0, 15.0, 40.0, 70.0), 8
FACING = 3  # power of the cosine of the view angle in a view's weight


@dataclass
class Photographs:
    """Pictures that colors are taken from."""

    cameras: Cameras
    pictures: Tensor  # [V, 3, S, S], RGB in [0, 1]
    depth: Tensor  # [V, 1, D, D], distance to the mesh along each ray, infinity where there is none
    tolerance: float  # of a point's distance against that


def photograph(
    look: Callable[[Cameras, int], Tensor],
    mesh: trimesh.Trimesh,
    radius: float,
    fov: float,
    size: int,
    tolerance: float,
) -> Photographs:
    """Views of the volume from all around, with the mesh's depth for visibility.

    Args:
        look: decoded RGB pictures of the volume, [V, 3, S, S] in [0, 1], from cameras and a number of pixels a side.
        radius, fov: of the cameras, world units and degrees.
        size: pixels a side of the pictures.
        tolerance: how far behind the mesh a point may lie and still be seen.
    """
    elevation = torch.tensor(RINGS).repeat_interleave(AROUND)
    shift = torch.arange(len(RINGS)).repeat_interleave(AROUND) % 2 / 2  # neighboring rings look between each other
    azimuth = (torch.arange(len(elevation)) % AROUND + shift) * (360 / AROUND)
    cameras = orbit(azimuth, elevation, radius, fov)
    pictures, depth = [], []
    for i in range(len(cameras)):
        one = cameras[i : i + 1]
        pictures.append(look(one, size))
        depth.append(torch.from_numpy(camera_hits(mesh, one, size).distance).float().reshape(1, 1, size, size))
    return Photographs(cameras, torch.cat(pictures), torch.cat(depth), tolerance)


def blend(photographs: Photographs, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Colors of surface points: the mean of the views that see them, weighted by how squarely they look.

    Args:
        points, normals: [P, 3], on the mesh.

    Returns:
        RGB in [0, 1], [P, 3], and the weight they rest on, [P]: 0 where no view sees a point.
    """
    total, weight = torch.zeros(len(points), 3), torch.zeros(len(points))
    half = torch.tan(torch.deg2rad(photographs.cameras.fov) / 2)
    for i, c2w in enumerate(photographs.cameras.c2w):
        offset = points - c2w[:3, 3]
        distance = offset.norm(dim=-1)
        x, y, z = (offset @ c2w[:3, :3]).unbind(dim=-1)
        grid = (torch.stack([x, -y], dim=-1) / (-z * half[i]).clamp_min(1e-6)[:, None])[None, None]
        inside = (z < 0) & (grid[0, 0].abs() <= 1).all(dim=-1)
        sample = {"grid": grid, "align_corners": False, "padding_mode": "border"}
        nearest = -max_pool2d(-photographs.depth[i : i + 1].clamp(max=1e6), 3, 1, 1)
        visible = inside & (distance <= grid_sample(nearest, mode="nearest", **sample)[0, 0, 0] + photographs.tolerance)
        facing = (-(offset * normals).sum(dim=-1) / distance).clamp_min(0)
        view_weight = visible * facing**FACING
        color = grid_sample(photographs.pictures[i : i + 1], mode="bilinear", **sample)[0, :, 0].T
        total += view_weight[:, None] * color
        weight += view_weight
    return total / weight.clamp_min(1e-8)[:, None], weight


def _completed(colors: Tensor, weight: Tensor, points: Tensor) -> Tensor:
    """Points that no view sees take the color of the nearest that one does."""
    unseen = weight < 1e-4
    if bool(unseen.any()) and not bool(unseen.all()):
        nearest = cKDTree(points[~unseen].numpy()).query(points[unseen].numpy())[1]
        colors[unseen] = colors[~unseen][torch.from_numpy(nearest)]
    return colors


def paint_vertices(mesh: trimesh.Trimesh, photographs: Photographs) -> trimesh.Trimesh:
    """The mesh with a color at every vertex."""
    points, normals = (torch.from_numpy(np.array(x, dtype=np.float32)) for x in (mesh.vertices, mesh.vertex_normals))
    colors = _completed(*blend(photographs, points, normals), points)
    painted = (colors.numpy() * 255).round().astype(np.uint8)
    return trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=mesh.vertex_normals, vertex_colors=painted, process=False
    )


def bake(mesh: trimesh.Trimesh, photographs: Photographs, size: int) -> trimesh.Trimesh:
    """The mesh with a UV atlas (xatlas) and a texture of `size` x `size` texels."""
    unwrapped, uv = _unwrap(mesh, size)
    flat = trimesh.Trimesh(np.pad(uv, ((0, 0), (0, 1))), unwrapped.faces, process=False)
    centers = (np.arange(size) + 0.5) / size
    u, v = np.meshgrid(centers, 1 - centers)  # row 0 of the texture is v = 1
    above = np.stack([u.ravel(), v.ravel(), np.ones(size * size)], axis=-1)
    hits = first_hits(flat, above, np.broadcast_to([0.0, 0.0, -1.0], above.shape))
    used = hits.face >= 0
    corners, weights = unwrapped.faces[hits.face[used]], hits.weights[used][..., None]
    points = torch.from_numpy((unwrapped.vertices[corners] * weights).sum(axis=1).astype(np.float32))
    normals = torch.from_numpy((unwrapped.vertex_normals[corners] * weights).sum(axis=1).astype(np.float32))
    normals = torch.nn.functional.normalize(normals, dim=-1)
    colors = _completed(*blend(photographs, points, normals), points)
    texture = np.zeros((size * size, 3), dtype=np.float32)
    texture[used] = colors.numpy()
    texture = _dilated(texture.reshape(size, size, 3), used.reshape(size, size))
    image = Image.fromarray((texture * 255).round().clip(0, 255).astype(np.uint8))
    material = PBRMaterial(name="baked", baseColorTexture=image, metallicFactor=0.0, roughnessFactor=1.0)
    unwrapped.visual = TextureVisuals(uv=uv, material=material)
    return unwrapped


def _unwrap(mesh: trimesh.Trimesh, size: int) -> tuple[trimesh.Trimesh, np.ndarray]:
    """The mesh cut along the seams of an atlas, and its vertices' places in it, [P, 2] in [0, 1]."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = size, 2, True
    atlas.generate(pack_options=pack)
    origin, faces, uv = atlas[0]
    normals = mesh.vertex_normals[origin]
    cut = trimesh.Trimesh(mesh.vertices[origin], faces, vertex_normals=normals, process=False)
    return cut, uv.astype(np.float64)


def _dilated(texture: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Unused texels take the nearest used one's color, so that filtering does not bleed at the seams."""
    nearest: Any = distance_transform_edt(~used, return_distances=False, return_indices=True)
    return texture[tuple(nearest)]
