"""What people see of a run: previews on the way; field, mesh and turntable at the end."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import MissingTool, UserError
from ..export.mesh import save_mesh
from ..export.pictures import contact_sheet, take_pictures
from ..export.surface import surface_of
from ..export.video import frames_of, save_video
from ..scene.cameras import ring
from ..training.trainer import Trainer
from .folder import RunFolder
from .reporter import Reporter

SMALLEST_VIEW, SMALLEST_TURNTABLE = 128, 256  # pixels a side


def take_preview(trainer: Trainer, decoded: bool = True) -> Tensor:
    """Four views, RGB above depth, [3, H, W]; of a latent model, decoded, or nearly so at the size of the latents."""
    config, model = trainer.config, trainer.model
    cameras = ring(4, config.log.elevation, *config.cameras.lens).to(trainer.device)
    size, backdrop = trainer.size * model.upscale, config.field.backdrop
    rgb, depth = take_pictures(trainer.field, model, cameras, size, backdrop, trainer.backend, decoded=decoded)
    return contact_sheet(rgb, depth)


def write_results(trainer: Trainer, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
    """Write the field, its mesh and its turntable. Returns figures for the run's record."""
    trainer.field.save(folder.field)
    figures: dict[str, Any] = {}
    try:
        mesh, figures["mesh"] = _surface(trainer)
    except UserError as error:  # a foggy object has no surface, and is still a result
        reporter.note(f"no mesh: {error}")
    else:
        save_mesh(mesh, folder.mesh())
    try:
        _write_turntable(trainer, folder)
    except MissingTool as error:  # everything else is there
        reporter.note(f"no turntable: {error}")
    return figures


def _surface(trainer: Trainer) -> tuple[Any, dict[str, Any]]:
    """The mesh, and its figures."""
    config, model = trainer.config, trainer.model
    options = {"size": max(SMALLEST_VIEW, trainer.size * model.upscale), "iso": config.log.mesh_iso}
    lens, backdrop = config.cameras.lens, config.field.backdrop
    return surface_of(trainer.field, model, *lens, backdrop, backend=trainer.backend, **options)


def _write_turntable(trainer: Trainer, folder: RunFolder) -> None:
    config, model, log = trainer.config, trainer.model, trainer.config.log
    cameras = ring(log.turntable_frames, log.elevation, *config.cameras.lens).to(trainer.device)
    size = log.turntable_size or max(SMALLEST_TURNTABLE, model.size * model.upscale)
    frames = frames_of(trainer.field, model, cameras, size, config.field.backdrop, trainer.backend)
    save_video(frames, folder.turntable, log.turntable_fps)
