"""A whole run: from a configuration to a folder that people can open."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .cameras import Cameras, ring
from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainConfig, load_yaml, save_yaml
from .errors import MissingTool, UserError
from .export.pictures import contact_sheet, save_picture, take_pictures
from .export.report import write_report
from .export.video import frames_of, save_video
from .field import VoxelField
from .journal import Journal
from .rendering import choose_backend
from .reporter import Reporter
from .scores.load import load_score_model
from .scores.protocol import ScoreModel
from .settings import CONFIG, check_words, limit_memory, network_dtype, pick_device
from .trainer import Readout, Trainer

CHECKPOINT, FIELD = "checkpoint.safetensors", "field.safetensors"


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run in the folder was asked to stop, and its checkpoint is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


@dataclass
class Result:
    """A finished run."""

    field: VoxelField
    config: TrainConfig
    model: ScoreModel
    folder: Path


def check_early(config: TrainConfig) -> None:
    """Settings and a run folder that cannot be, refused before anything is loaded.

    Raises:
        UserError: see the message.
    """
    config.check()
    if not str(config.output or "").isprintable():
        raise UserError(f"--output {str(config.output)!r}: give a name of readable characters")
    if config.resume is None and config.output:
        taken = [name for name in (CONFIG, CHECKPOINT) if (config.output / name).exists()]
        if taken:
            raise UserError(f"{config.output} already holds a run: give --resume {config.output}, or another --output")
        existing = next(p for p in (config.output, *config.output.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise UserError(f"cannot write to {config.output}: {existing} is a file, not a folder")


def make_folder(config: TrainConfig) -> Path:
    """The run folder: the one that is asked for or resumed, else the first free of runs/<prompt>, runs/<prompt>-2, …

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder = config.resume or config.output
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = _make_free_folder(config.prompt, Path("runs"))
    except OSError as error:
        raise UserError(f"cannot make the run folder {error.filename}: {error.strerror}") from None
    if not config.resume:
        save_yaml(replace(config, output=folder), folder / CONFIG)
    return folder


def _make_free_folder(prompt: str, parent: Path) -> Path:
    words = "-".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())[:60] or "run"
    for i in itertools.count(1):
        folder = parent / (words if i == 1 else f"{words}-{i}")
        with contextlib.suppress(FileExistsError):  # also when another run takes the name at this moment
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")


def run(config: TrainConfig, reporter: Reporter, model: ScoreModel | None = None) -> Result:
    """Train, and write everything a run folder holds.

    Args:
        config: the run. With `resume` set it goes on from that folder's checkpoint, or from the start if the run was
            stopped before its first one.
        reporter: hears what happens.
        model: a loaded score model; default, the one that the configuration names.

    Raises:
        UserError: a wrong input, no space, or a NaN (the last good checkpoint is kept).
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is written first.
    """
    started = time.monotonic()
    check_early(config)
    if config.lora:
        config = replace(config, lora=config.lora.absolute())  # so that the run can be resumed from anywhere
    device = pick_device(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # events and graphs belong to the current device
    limit_memory(config.memory_limit, device)
    backend = choose_backend(config.backend, device)
    if model is None:
        check_words(config)
    used = f"model {model.name if model else config.model}, renderer {backend}, device {device}"
    reporter.announce(f"{used} (change with --model, --backend, --device)")
    try:
        model = model or load_model(config, device)
        if config.attention != "sdpa":
            reporter.announce(f"attention {getattr(model, 'attention', 'of the model')}")
        trainer = Trainer(config, model, device)
        if config.resume and (config.resume / CHECKPOINT).exists():
            trainer.restore(load_checkpoint(config.resume / CHECKPOINT))
        model.prepare_decoder()  # a VAE that does not load is met now, not in the middle of the run
        folder = make_folder(config)
        journal = Journal(folder, len(trainer.schedule), trainer.position)
        journal.add("loading", time.monotonic() - started)
        try:
            reporter.start(trainer, folder)
            with journal.ending(trainer, Interrupted, device=_device_name(device), renderer=backend):
                train(trainer, folder, reporter, journal)
                journal.phase("mesh and video")
                journal.results |= finish(trainer, folder, reporter)
        finally:
            reporter.close()
            if journal.status != "failed":
                write_report(folder)
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the device has too little memory: lower --field.resolution, --views or --log.turntable-size, or raise "
            f"--memory-limit ({str(error).splitlines()[0]})"
        ) from None
    return Result(trainer.field, trainer.config, model, folder)


def load_model(config: TrainConfig, device: torch.device) -> ScoreModel:
    """The score model that a configuration names, as it wants it."""
    dtype = network_dtype(config.precision)
    options = {"attention": config.attention, "compiled": config.compile, "lora": config.lora}
    return load_score_model(config.model, device, dtype, **options)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} threads"


def train(trainer: Trainer, folder: Path, reporter: Reporter, journal: Journal) -> None:
    """Take the steps that are left, with their regular work."""
    readout, every = Readout(trainer.log), trainer.config.log.metrics_every
    journal.phase("training")
    with stop_requests() as stop:
        for position in trainer.remaining():
            reporter.step(position)
            if position % every == 0:
                readout.send(position)
            last = position == len(trainer.schedule)
            for at, metrics in readout.arrived(everything=last):
                if not math.isfinite(metrics["field"]):
                    raise _bad_field(trainer, folder)
                reporter.measured(at, metrics)
                journal.measured(at, metrics)
            stopping = _wait(trainer, folder, reporter, journal, stop) or bool(stop)
            _regular_work(trainer, folder, reporter, journal, position, stopping=stopping)


def _wait(trainer: Trainer, folder: Path, reporter: Reporter, journal: Journal, stop: list[int]) -> bool:
    """Do what people ask for between two steps, and wait while the run is paused. Returns whether it is to stop."""
    wish = reporter.asked()
    if not (wish.pause or wish.save):
        return wish.stop
    journal.phase("paused")
    while True:
        if wish.save:
            _save(trainer, folder)
        if wish.stop or stop or not wish.pause:
            break
        time.sleep(0.05)
        wish = reporter.asked()
    journal.phase("training")
    return wish.stop


def _bad_field(trainer: Trainer, folder: Path) -> UserError:
    kept = folder / CHECKPOINT
    where = f"the last good checkpoint is {kept}" if kept.exists() else "there is no checkpoint yet"
    step = trainer.first_bad_step() or trainer.position
    return UserError(f"the field holds NaN or infinity at step {step}; {where}; try a lower --optimizer.lr")


def _save(trainer: Trainer, folder: Path) -> None:
    if not trainer.is_finite():
        raise _bad_field(trainer, folder)
    save_checkpoint(folder / CHECKPOINT, trainer.checkpoint())


def _regular_work(
    trainer: Trainer, folder: Path, reporter: Reporter, journal: Journal, position: int, *, stopping: bool
) -> None:
    """Checkpoint and preview where they are due; stop where that was asked for, or at a NaN."""
    log, last = trainer.config.log, position == len(trainer.schedule)
    checkpoint, picture = position % log.checkpoint_every == 0, position % log.preview_every == 0
    if not (stopping or last or checkpoint or picture):
        return
    journal.phase("previews and checkpoints")
    if stopping or last or checkpoint:
        _save(trainer, folder)
    if last or picture:
        view = preview(trainer, decoded=last or log.preview == "decoded")
        save_picture(view, folder / "preview.png")
        journal.preview(position, view)
        reporter.preview(position, view)
    journal.phase("training")
    if stopping and not last:
        raise Interrupted(folder)


@contextlib.contextmanager
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
    return ring(count, height, *config.cameras.lens)


def preview(trainer: Trainer, decoded: bool = True) -> torch.Tensor:
    """Four views, RGB above depth, [3, H, W]; of a latent model, decoded or nearly so."""
    config, model = trainer.config, trainer.model
    cameras = orbit_cameras(config, 4).to(trainer.device)
    size, background = trainer.size * model.upscale, display_background(config)
    rgb, depth = take_pictures(trainer.field, model, cameras, size, background, config.backend, decoded=decoded)
    return contact_sheet(rgb, depth)


def finish(trainer: Trainer, folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Write the field, its mesh and its turntable. Returns what there is to say about them."""
    from .export.mesh import save_mesh
    from .export.surface import surface_of

    config, field, model = trainer.config, trainer.field, trainer.model
    field.save(folder / FIELD)
    background, results = display_background(config), {}
    size = max(128, trainer.size * model.upscale)
    try:
        options = {"size": size, "iso": config.log.mesh_iso, "backend": config.backend}
        mesh, results["mesh"] = surface_of(field, model, *config.cameras.lens, background, **options)
    except UserError as error:  # a foggy object has no surface, and is still a result
        reporter.note(f"no mesh: {error}")
    else:
        save_mesh(mesh, folder / "mesh.ply")
    cameras = orbit_cameras(config, config.log.turntable_frames).to(trainer.device)
    size = config.log.turntable_size or max(256, model.size * model.upscale)
    frames = frames_of(field, model, cameras, size, background, config.backend)
    try:
        save_video(frames, folder / "turntable.mp4", config.log.turntable_fps)
    except MissingTool as error:  # everything else is there
        reporter.note(f"no turntable: {error}")
    return results


def open_run(folder: Path) -> tuple[TrainConfig, VoxelField]:
    """Configuration and field of a run folder: the finished field, or that of its last checkpoint.

    Raises:
        UserError: not a run folder, or nothing in it yet.
    """
    config = load_yaml(folder / CONFIG)
    config.check()
    if (folder / FIELD).exists():
        return config, VoxelField.load(folder / FIELD)
    tensors = load_checkpoint(folder / CHECKPOINT).field
    try:
        return config, VoxelField.from_tensors(tensors, None, config.field.density_shift)
    except ValueError as error:
        raise UserError(f"the checkpoint {folder / CHECKPOINT} is damaged: {error}") from None
