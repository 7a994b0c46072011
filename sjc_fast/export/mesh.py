"""Meshes of a field: marching cubes through its density, at a level that matches what the renderer shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply
from trimesh.visual.material import SimpleMaterial
from trimesh.visual.texture import TextureVisuals

from ..errors import UserError, setting
from ..rendering import render
from ..scene.cameras import orbit
from ..scene.field import VoxelField
from ..storage.files import atomic
from .raycast import silhouettes

LEVELS = 12  # iso-levels tried
SMALLEST_SHARE = 0.02  # of the largest piece's area: smaller pieces are floaters


@torch.no_grad()
def extract_mesh(field: VoxelField, iso: float) -> trimesh.Trimesh:
    """The surface where the density equals `iso`, closed where it meets the box, without colors.

    Raises:
        UserError: the density is nowhere above `iso`.
    """
    highest = float(field.density_grid().max())
    if highest <= iso:
        raise UserError(
            f"no surface: the density reaches {highest:.3g}, below the iso-level {iso:g}; give a lower {setting('iso')}"
        )
    # Raw values, because they are what is interpolated; density grows with them.
    raw, level = field.density.detach().cpu().numpy(), field.raw_density(iso)
    padded = np.pad(raw, 1, constant_values=min(raw.min(), level - 1))  # closes the surface where it meets the box
    zyx, faces, _, _ = marching_cubes(padded, level)
    low, high = field.box.cpu().numpy()
    # Array index i + 1 (after the padding) is the voxel center low + (i + 0.5) voxel.
    xyz = low + (zyx[:, ::-1] - 0.5) * (high - low) / raw.shape[::-1]
    return trimesh.Trimesh(xyz, faces, process=False)


@torch.no_grad()
def choose_iso(field: VoxelField, radius: float, fov: float, backend: str = "auto", size: int = 96) -> float:
    """The iso-level whose surface has the silhouettes that the volume has (opacity above 0.5), by their IoU.

    Args:
        radius, fov: of the six cameras that compare them, world units and degrees.

    Raises:
        UserError: no view of the volume is opaque anywhere.
    """
    cameras = orbit(torch.arange(6) * 60.0, torch.tensor([-20.0, 20.0] * 3), radius, fov)
    out = render(field, cameras.to(field.box.device), size, backend=backend, skip_empty=True)
    solid = out.opacity.cpu() > 0.5
    highest = float(field.density_grid().max())
    if not bool(solid.any()):
        raise UserError(
            f"no surface: the object is fog, no pixel of any view is half opaque (its density reaches {highest:.3g}); "
            f"train for more steps, or give an {setting('iso')} below that"
        )
    best = (-1.0, 0.0)
    for iso in np.geomspace(min(0.5, highest / 4), highest * 0.8, LEVELS).tolist():
        best = max(best, (_agreement(silhouettes(extract_mesh(field, iso), cameras, size), solid), iso))
    return best[1]


def _agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a & b).sum() / (a | b).sum().clamp_min(1))


def keep_large(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh without floaters (less than 2% of the largest piece's area) and without closed hollows inside."""
    pieces = mesh.split(only_watertight=False)
    outer = [piece for piece in pieces if not (piece.is_watertight and piece.volume < 0)] or list(pieces)
    largest = max(piece.area for piece in outer)
    kept = [piece for piece in outer if piece.area >= SMALLEST_SHARE * largest]
    # Meshes together are a mesh; trimesh names the parent of all its kinds.
    return cast(trimesh.Trimesh, trimesh.util.concatenate(kept)) if len(kept) > 1 else kept[0]


def simplify(mesh: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    """The mesh with about so many faces, by quadric edge collapse; as it is if it has no more."""
    return mesh.simplify_quadric_decimation(face_count=faces) if len(mesh.faces) > faces else mesh


def save_mesh(mesh: trimesh.Trimesh, path: Path) -> list[Path]:
    """Write PLY, GLB or OBJ by the path's ending, with normals.

    An OBJ with a texture comes with an .mtl and a .png beside it, called like it; they are put there first.

    Returns:
        Every file written, the mesh itself last.

    Raises:
        UserError: they cannot be written.
    """
    mesh.vertex_normals  # noqa: B018 (computed, so that they are exported)
    if path.suffix == ".glb":
        files = {path: export_glb(trimesh.Scene(mesh), include_normals=True)}
    elif path.suffix == ".ply":
        files = {path: export_ply(mesh, vertex_normal=True)}
    else:
        files = _obj_files(mesh, path)
    for file, data in files.items():
        with atomic(file, "the mesh") as partial:
            partial.write_bytes(data)
    return list(files)


def _obj_files(mesh: trimesh.Trimesh, path: Path) -> dict[Path, bytes]:
    visual: Any = mesh.visual  # its kind decides what it has
    if visual.kind == "texture":
        white, image = [255, 255, 255, 255], visual.material.baseColorTexture
        material = SimpleMaterial(name=path.stem, image=image, diffuse=white, ambient=white, specular=[0, 0, 0, 255])
        mesh = mesh.copy()
        mesh.visual = TextureVisuals(uv=visual.uv, material=material)
    options = {"include_normals": True, "return_texture": True, "mtl_name": f"{path.stem}.mtl", "header": None}
    text, beside = export_obj(mesh, **options)
    return {path.with_name(name): data for name, data in beside.items()} | {path: text.encode()}
