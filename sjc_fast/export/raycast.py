"""What a camera sees of a mesh: first hits through Embree, textured pictures, silhouettes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from torch import Tensor
from torch.nn.functional import grid_sample

from ..scene.cameras import Cameras


class Hits(NamedTuple):
    """Where R rays meet a mesh first."""

    face: np.ndarray  # [R] int64, -1 where a ray misses
    weights: np.ndarray  # [R, 3] barycentric coordinates in the face; zeros where a ray misses
    distance: np.ndarray  # [R] along the ray, infinity where it misses


def first_hits(mesh: trimesh.Trimesh, origins: np.ndarray, directions: np.ndarray) -> Hits:
    """First hits of rays [R, 3] with unit directions."""
    count = len(directions)
    origins = np.broadcast_to(origins, directions.shape)
    hits: Any = mesh.ray.intersects_id(origins, directions, multiple_hits=False, return_locations=True)
    triangle, ray, where = hits  # the last for `return_locations`
    face, weights = np.full(count, -1, dtype=np.int64), np.zeros((count, 3))
    distance = np.full(count, np.inf)
    face[ray] = triangle
    distance[ray] = np.linalg.norm(where - origins[ray], axis=1)
    weights[ray] = trimesh.triangles.points_to_barycentric(mesh.triangles[triangle], where)
    return Hits(face, weights.clip(0, 1), distance)


def camera_hits(mesh: trimesh.Trimesh, camera: Cameras, size: int) -> Hits:
    """First hits through the pixel centers of one camera, row by row: R = size * size."""
    origins, directions = camera.rays(size, size)
    return first_hits(mesh, origins[0].double().numpy(), directions[0].reshape(-1, 3).double().numpy())


def render_mesh(mesh: trimesh.Trimesh, cameras: Cameras, size: int, background: Tensor, fine: int = 2) -> Tensor:
    """Pictures of a mesh in its own colors, without light, RGB in [0, 1]: [V, 3, size, size].

    Args:
        mesh: with a texture or with vertex colors.
        cameras: V cameras on the CPU.
        size: pixels a side.
        background: RGB in [0, 1], [3].
        fine: rays a pixel and axis.
    """
    pictures = []
    for i in range(len(cameras)):
        hits = camera_hits(mesh, cameras[i : i + 1], size * fine)
        seen = torch.from_numpy(hits.face >= 0)
        colors = torch.zeros(len(seen), 3)
        colors[seen] = _colors(mesh, hits)[seen]
        shape = (size, fine, size, fine, -1)
        color = colors.reshape(shape).mean(dim=(1, 3)).permute(2, 0, 1)
        covered = seen.float().reshape(shape).mean(dim=(1, 3)).permute(2, 0, 1)
        pictures.append(color + (1 - covered) * background[:, None, None])
    return torch.stack(pictures)


def _colors(mesh: trimesh.Trimesh, hits: Hits) -> Tensor:
    """RGB in [0, 1] where rays hit, [R, 3]: from the texture (bilinear), else from the vertices."""
    corners = mesh.faces[hits.face]
    visual: Any = mesh.visual  # its kind decides what it has
    if visual.kind == "texture":
        uv = (visual.uv[corners] * hits.weights[..., None]).sum(axis=1)
        material = visual.material
        image = np.asarray(getattr(material, "baseColorTexture", None) or material.image.convert("RGB"))[..., :3]
        texture = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
        grid = torch.from_numpy(uv.astype(np.float32)) * torch.tensor([2.0, -2.0]) + torch.tensor([-1.0, 1.0])
        return grid_sample(texture, grid[None, None], mode="bilinear", align_corners=False)[0, :, 0].T
    colors = visual.vertex_colors[:, :3].astype(np.float32) / 255
    return torch.from_numpy((colors[corners] * hits.weights[..., None]).sum(axis=1).astype(np.float32))


def silhouettes(mesh: trimesh.Trimesh, cameras: Cameras, size: int) -> Tensor:
    """Which pixels a mesh covers, [V, size, size] bool."""
    masks = [camera_hits(mesh, cameras[i : i + 1], size).face >= 0 for i in range(len(cameras))]
    return torch.from_numpy(np.stack(masks)).reshape(-1, size, size)
