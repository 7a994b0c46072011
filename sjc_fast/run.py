"""A whole run: from a configuration to a folder that people can open."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from .cameras import Cameras, ring
from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainConfig, differences, load_yaml, merge, save_yaml
from .errors import UserError
from .export.mesh import extract_mesh, save_mesh
from .export.pictures import contact_sheet, save_picture, take_pictures
from .export.video import frames_of, save_video
from .field import VoxelField
from .rendering import choose_backend
from .scores.diffusers import FolderSettings
from .scores.load import load_score_model, model_folder
from .scores.protocol import ScoreModel
from .trainer import Metrics, Trainer

CONFIG, CHECKPOINT, FIELD = "config.yaml", "checkpoint.safetensors", "field.safetensors"


class Reporter(Protocol):
    """Hears what happens in a run; every method may do nothing."""

    def start(self, trainer: Trainer, folder: Path) -> None: ...
    def step(self, position: int, metrics: Metrics) -> None: ...
    def preview(self, position: int, picture: torch.Tensor) -> None: ...
    def note(self, message: str) -> None: ...
    def close(self) -> None: ...


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop, and its checkpoint is written."""


@dataclass
class Result:
    """A finished run."""

    field: VoxelField
    config: TrainConfig
    model: ScoreModel
    folder: Path


def pick_device(name: str) -> torch.device:
    """The device an option stands for.

    Raises:
        UserError: unknown, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: give auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine has no usable CUDA device; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: only cpu and cuda are supported")
    return device


def default_config(model: str) -> TrainConfig:
    """The settings that suit a model: its own `sjc_fast.json`, or the paper's.

    Raises:
        UserError: there is no such model, or its settings are wrong.
    """
    folder = model_folder(model)
    own = FolderSettings.read(folder).defaults if folder else {}
    return merge(replace(TrainConfig(), model=model), own, f"{model}/sjc_fast.json")


def check_early(config: TrainConfig) -> None:
    """Everything about a run that can be refused before the model is loaded.

    Raises:
        UserError: see the message.
    """
    config.check()
    folder = model_folder(config.model)
    vocabulary = FolderSettings.read(folder).vocabulary if folder else None
    if vocabulary:
        vocabulary.check(config.prompt)
    pick_device(config.device)
    choose_backend(config.backend)
    if config.resume is None:
        taken = [name for name in (CONFIG, CHECKPOINT) if config.output and (config.output / name).exists()]
        if taken:
            raise UserError(f"{config.output} already holds a run: give --resume {config.output}, or another --output")
    if config.output:
        _existing_parent(config.output)


def free_folder(prompt: str, parent: Path = Path("runs")) -> Path:
    """The first of runs/<prompt>, runs/<prompt>-2, … that does not exist."""
    words = "-".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())[:60] or "run"
    names = (parent / (words if i == 1 else f"{words}-{i}") for i in range(1, 10_000))
    return next(path for path in names if not path.exists())


def resumed_config(folder: Path, wanted: TrainConfig | None = None) -> TrainConfig:
    """The configuration of a run folder, set to continue in place.

    Raises:
        UserError: not a run folder, or `wanted` differs from it in something that decides the result.
    """
    saved = load_yaml(folder / CONFIG)
    if wanted is not None:
        different = differences(saved, wanted)
        if different:
            raise UserError(
                f"{folder} was started with {'; '.join(different)}: resume it unchanged, or start a new run"
            )
        saved = replace(wanted)
    return replace(saved, output=folder, resume=folder)


def run(config: TrainConfig, reporter: Reporter, model: ScoreModel | None = None) -> Result:
    """Train, and write everything a run folder holds.

    Raises:
        UserError: a wrong input, no space, or a NaN (the last good checkpoint is kept).
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is written first.
    """
    if model is None:
        check_early(config)
        device = pick_device(config.device)
        model = load_score_model(config.model, device)
    else:
        device = pick_device(config.device)
    trainer = Trainer(config, model, device)
    if config.resume:
        trainer.restore(load_checkpoint(config.resume / CHECKPOINT))
    folder = _make_folder(config)
    reporter.start(trainer, folder)
    try:
        with stop_requests() as stop:
            for position, metrics in trainer.remaining():
                reporter.step(position, metrics)
                _regular_work(trainer, folder, reporter, position, stopping=bool(stop))
        finish(trainer.field, model, trainer.config, folder, reporter)
    finally:
        reporter.close()
    return Result(trainer.field, trainer.config, model, folder)


def _regular_work(trainer: Trainer, folder: Path, reporter: Reporter, position: int, *, stopping: bool) -> None:
    """Checkpoint and preview where they are due; stop where that was asked for, or at a NaN."""
    log, last = trainer.config.log, position == len(trainer.schedule)
    due = stopping or last or position % log.checkpoint_every == 0
    if (due or position % log.metrics_every == 0) and not trainer.is_finite():
        kept = folder / CHECKPOINT
        where = f"the last good checkpoint is {kept}" if kept.exists() else "there is no checkpoint yet"
        raise UserError(f"the field holds NaN or infinity at step {position}; {where}; try a lower --optimizer.lr")
    if due:
        save_checkpoint(folder / CHECKPOINT, trainer.checkpoint())
    if position % log.preview_every == 0 or last:
        picture = preview(trainer.field, trainer.model, trainer.config)
        save_picture(picture, folder / "preview.png")
        reporter.preview(position, picture)
    if stopping and not last:
        raise Interrupted


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM during the block, so that a step is never torn; a second Ctrl-C is not held."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's business
        before = {}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def display_background(config: TrainConfig) -> tuple[float, float, float] | None:
    """The plain colour behind pictures of a run; None where the field has a texture of its own."""
    return None if config.field.background == "texture" else config.field.background_colour


def orbit_cameras(config: TrainConfig, count: int, elevation: float | None = None) -> Cameras:
    """Cameras around the object for pictures: the training radius and the middle of its range of FoV."""
    height = config.log.elevation if elevation is None else elevation
    return ring(count, height, config.cameras.radius, sum(config.cameras.fov) / 2)


def preview(field: VoxelField, model: ScoreModel, config: TrainConfig) -> torch.Tensor:
    """Four views, RGB above depth, [3, H, W]."""
    cameras = orbit_cameras(config, 4).to(field.box.device)
    size = (config.size or model.size) * model.upscale
    return contact_sheet(*take_pictures(field, model, cameras, size, display_background(config)))


def finish(field: VoxelField, model: ScoreModel, config: TrainConfig, folder: Path, reporter: Reporter) -> None:
    """Write the field, its mesh and its turntable."""
    field.save(folder / FIELD)
    try:
        save_mesh(extract_mesh(field, config.log.mesh_iso), folder / "mesh.ply")
    except UserError as error:  # a foggy object has no surface, and is still a result
        reporter.note(f"no mesh: {error}")
    cameras = orbit_cameras(config, config.log.turntable_frames).to(field.box.device)
    frames = frames_of(field, model, cameras, config.log.turntable_size, display_background(config), config.backend)
    save_video(frames, folder / "turntable.mp4", config.log.turntable_fps)


def open_run(folder: Path) -> tuple[TrainConfig, VoxelField]:
    """Configuration and field of a run folder: the finished field, or that of its last checkpoint.

    Raises:
        UserError: not a run folder, or nothing in it yet.
    """
    config = load_yaml(folder / CONFIG)
    if (folder / FIELD).exists():
        return config, VoxelField.load(folder / FIELD)
    tensors = load_checkpoint(folder / CHECKPOINT).field
    activation = "sigmoid" if tensors["features"].shape[-1] == 3 else "raw"  # as `build_field` does
    return config, VoxelField.from_tensors(tensors, activation, config.field.density_shift)


def _existing_parent(path: Path) -> None:
    for parent in (path, *path.parents):
        if parent.exists():
            if not parent.is_dir():
                raise UserError(f"cannot write to {path}: {parent} is a file, not a folder")
            return


def _make_folder(config: TrainConfig) -> Path:
    folder = config.output or free_folder(config.prompt)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not config.resume:
            save_yaml(replace(config, output=folder), folder / CONFIG)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from None
    return folder


class SilentReporter:
    """A reporter that says nothing."""

    def start(self, trainer: Trainer, folder: Path) -> None: ...
    def step(self, position: int, metrics: Metrics) -> None: ...
    def preview(self, position: int, picture: torch.Tensor) -> None: ...
    def note(self, message: str) -> None: ...
    def close(self) -> None: ...
