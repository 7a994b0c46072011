"""`sjc-fast export`: a mesh of a run, in its true colors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import UserError
from ..runs.folder import RunFolder
from ..runs.run import load_model
from ..runs.settings import pick_device
from ..storage.files import prepare
from . import check_limits, parse


@dataclass
class ExportOptions:
    """The surface of a run's object, in the colors that its volume shows from all around."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    format: Literal["glb", "obj", "ply"] = "glb"
    """glb and obj have a UV texture, ply colors at its vertices."""
    output: Path | None = None
    """Default mesh.<format> in the run folder."""
    iso: float | None = None
    """Density of the surface; default the one whose silhouettes match the volume's."""
    faces: int = 20_000
    """Faces at most; the surface is simplified to about so many."""
    texture: int = 1024
    """Texels a side."""
    size: int = 256
    """Pixels a side of the views that the colors are taken from, at least what the model makes."""
    device: str = "auto"
    backend: str = "auto"


def main(arguments: list[str]) -> None:
    """Extract, color, write, and say how good it is."""
    options = parse(ExportOptions, arguments, "export")
    output = options.output or RunFolder(options.run).mesh(options.format)
    _check(options, output)
    config, field = RunFolder(options.run).load()
    device = pick_device(options.device)
    prepare(output)
    from ..export.mesh import save_mesh
    from ..export.surface import surface_of

    model, field = load_model(config, device, additions=False), field.to(device)
    mesh, figures = surface_of(
        field,
        model,
        *config.cameras.lens,
        config.field.backdrop,
        size=max(options.size, model.size * model.upscale),
        iso=options.iso,
        faces=options.faces,
        texture=None if options.format == "ply" else options.texture,
        backend=options.backend,
    )
    for path in save_mesh(mesh, output):
        print(path)
    closed = "watertight" if figures["watertight"] else "not watertight"
    print(
        f"{figures['vertices']} vertices, {figures['faces']} faces, {closed}, iso-level {figures['iso']:g}; "
        f"PSNR against the volume {figures['psnr']:.1f} dB"
    )


def _check(options: ExportOptions, output: Path) -> None:
    if output.suffix != f".{options.format}":
        raise UserError(f"--output {output}: a {options.format} file ends in .{options.format}")
    if options.iso is not None and not 0 < options.iso < math.inf:
        raise UserError(f"--iso {options.iso:g}: a density is positive")
    check_limits(options, {"faces": (16, 10**7), "texture": (16, 8192), "size": (16, 4096)})
