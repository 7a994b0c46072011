"""`sjc-fast export`: a mesh of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import UserError
from ..export.mesh import extract_mesh, save_mesh
from ..run import open_run
from . import parse


@dataclass
class ExportOptions:
    """The surface of a run's object, with vertex colours."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    format: Literal["ply", "glb", "obj"] = "ply"
    output: Path | None = None
    """Default mesh.<format> in the run folder."""
    iso: float | None = None
    """Density of the surface; default the run's log.mesh_iso."""


def main(arguments: list[str]) -> None:
    """Extract, write, and say how large it is."""
    options = parse(ExportOptions, arguments, "export")
    output = options.output or options.run / f"mesh.{options.format}"
    if output.suffix != f".{options.format}":
        raise UserError(f"--output {output}: a {options.format} file ends in .{options.format}")
    config, field = open_run(options.run)
    iso = config.log.mesh_iso if options.iso is None else options.iso
    if not 0 < iso < math.inf:
        raise UserError(f"--iso {iso:g}: a density is positive")
    mesh = extract_mesh(field, iso)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_mesh(mesh, output)
    print(f"{output}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")
