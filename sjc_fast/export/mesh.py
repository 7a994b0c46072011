"""Meshes of a field: marching cubes through its density, with the field's colours at the vertices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

from ..errors import UserError
from ..field import VoxelField
from ..files import atomic
from ..rendering.reference import normalise, sample_grid

#: Linear approximation of what Stable Diffusion's VAE decodes a latent to (widely used for previews), [4, 3].
LATENT_RGB = torch.tensor(
    [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]]
)


@torch.no_grad()
def extract_mesh(field: VoxelField, iso: float) -> trimesh.Trimesh:
    """The surface where the density equals `iso`, with vertex colours.

    Colours are exact for pixel models; for latent models they are a linear approximation of the VAE.

    Raises:
        UserError: the density is nowhere above `iso`.
    """
    highest = float(field.density_grid().max())
    if highest <= iso:
        raise UserError(
            f"no surface: the density reaches {highest:.3g}, below the iso-level {iso:g}; give a lower --iso"
        )
    # Raw values, because they are what is interpolated; density grows with them.
    raw, level = field.density.detach().cpu().numpy(), field.raw_density(iso)
    padded = np.pad(raw, 1, constant_values=min(raw.min(), level - 1))  # closes the surface where it meets the box
    zyx, faces, normals, _ = marching_cubes(padded, level)
    low, high = field.box.cpu().numpy()
    voxel = (high - low) / raw.shape[::-1]
    # Array index i + 1 (after the padding) is the voxel centre low + (i + 0.5) voxel.
    xyz = low + (zyx[:, ::-1] - 0.5) * voxel
    inwards = -normals[:, ::-1]
    colours = vertex_colours(field, torch.from_numpy((xyz + 0.5 * voxel * inwards).astype(np.float32)))
    return trimesh.Trimesh(xyz, faces, vertex_colors=(colours.numpy() * 255).round().astype(np.uint8), process=False)


def vertex_colours(field: VoxelField, points: Tensor) -> Tensor:
    """RGB in [0, 1] of the field at world points [P, 3]; [P, 3]."""
    lookup = normalise(points.to(field.box.device), field.box)
    features = field.activate_features(sample_grid(field.features.permute(3, 0, 1, 2), lookup).T).cpu()
    rgb = features if field.channels == 3 else features @ LATENT_RGB
    return (rgb / 2 + 0.5).clamp(0, 1)


def save_mesh(mesh: trimesh.Trimesh, path: Path) -> None:
    """Write PLY, GLB or OBJ by the path's ending, atomically."""
    with atomic(path, "the mesh") as partial:
        mesh.export(partial)
