"""A whole run: from a configuration to a folder that people can open."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, setting
from ..rendering import choose_backend
from ..scene.field import VoxelField
from ..scores.diffusers import DiffusersModel
from ..scores.load import load_score_model
from ..scores.lora import parse_lora
from ..scores.protocol import ScoreModel
from ..training.checkpoint import load_checkpoint
from ..training.config import TrainConfig, save_yaml
from ..training.distributed import Ranks, introduced
from ..training.trainer import Trainer
from .attend import Attendant, Interrupted
from .folder import RunFolder
from .reporter import Reporter
from .settings import check_words, limit_memory, network_dtype, pick_device


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
        raise UserError(f"{setting('output')} {str(config.output)!r}: give a name of readable characters")
    if config.resume is None and config.output:
        RunFolder(config.output).check_free()


def make_folder(config: TrainConfig) -> RunFolder:
    """The run folder: the one that is asked for or resumed, else the first free one in runs/.

    Raises:
        UserError: it cannot be made.
    """
    if wanted := config.resume or config.output:
        folder = RunFolder(wanted)
        folder.make()
    else:
        folder = RunFolder.first_free(config.prompt)
    if not config.resume:
        save_yaml(replace(config, output=folder.path), folder.config)
    return folder


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
    config.check()
    config = settle(config)
    with introduced(config.device) as ranks:
        if ranks is None or ranks.leads:
            check_early(config)
        return _run(config, reporter if ranks is None or ranks.leads else Reporter(), model, ranks, started)


def _run(
    config: TrainConfig, reporter: Reporter, model: ScoreModel | None, ranks: Ranks | None, started: float
) -> Result:
    device = ranks.device if ranks else pick_device(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # events and graphs belong to the current device
    limit_memory(config.memory_limit, device)
    backend = choose_backend(config.backend, device)
    if model is None:
        check_words(config.model, config.prompt)
    used = f"model {model.name if model else config.model}, renderer {backend}, device {device}"
    reporter.announce(f"{used} (change with {', '.join(map(setting, ('model', 'backend', 'device')))})")
    try:
        model = model or load_model(config, device)
        choice = getattr(model, "attention", None)
        if choice and config.attention != "sdpa":
            reporter.announce(f"attention {choice.name}")
        trainer = Trainer(config, model, device, ranks=ranks)
        if config.resume and RunFolder(config.resume).checkpoint.exists():
            trainer.restore(load_checkpoint(RunFolder(config.resume).checkpoint))
        if ranks is not None and not ranks.leads:
            folder = RunFolder(config.resume or config.output or Path())
            follow(trainer, ranks, folder)
            return Result(trainer.field, trainer.config, model, folder.path)
        model.prepare_decoder()  # a VAE that does not load is met now, not in the middle of the run
        folder = make_folder(config)
        with Attendant(trainer, folder, reporter, time.monotonic() - started) as attendant:
            train(trainer, attendant, reporter, ranks)
            attendant.finish()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the device has too little memory: lower {setting('field.resolution')}, {setting('views')} or "
            f"{setting('log.turntable_size')}, or raise {setting('memory_limit')} ({str(error).splitlines()[0]})"
        ) from None
    return Result(trainer.field, trainer.config, model, folder.path)


def load_model(config: TrainConfig, device: torch.device, additions: bool = True) -> DiffusersModel:
    """The score model that a configuration names, as it wants it.

    Args:
        additions: LoRA weights and learned words too, which pictures of a field do not need.
    """
    options: dict[str, Any] = {"quantize": config.quantize}
    if additions:
        options |= {"attention": config.attention, "compiled": config.compile, "fused": config.fuse}
        options |= {"lora": config.lora, "embeddings": config.embeddings}
    return load_score_model(config.model, device, network_dtype(config.precision), **options)


def settle(config: TrainConfig) -> TrainConfig:
    """The same with full paths, so that the run can be resumed from anywhere."""
    lora, embeddings = map(absolute_lora, config.lora), (path.absolute() for path in config.embeddings)
    return replace(config, lora=tuple(lora), embeddings=tuple(embeddings))


def absolute_lora(text: str) -> str:
    """The same weights, by their full path."""
    path, weight = parse_lora(text)
    return f"{path.absolute()}{'' if weight == 1 else f':{weight:g}'}"


def train(trainer: Trainer, attendant: Attendant, reporter: Reporter, ranks: Ranks | None = None) -> None:
    """Take the steps that are left, with their regular work."""
    with stop_requests() as stop:
        for position in trainer.remaining():
            reporter.step(position)
            stopping = _wait(attendant, reporter, stop) or bool(stop)
            if ranks is not None:  # a stop that is not agreed on yet is asked for again
                stopping = ranks.agree(position, stopping, trainer.log)
            attendant.after_step(stopping)


def follow(trainer: Trainer, ranks: Ranks, folder: RunFolder) -> None:
    """Take the steps beside the process that writes.

    Raises:
        Interrupted: the processes were asked to stop.
    """
    with stop_requests() as stop:
        for position in trainer.remaining():
            if ranks.agree(position, bool(stop), trainer.log) and position < len(trainer.schedule):
                raise Interrupted(folder.path)


def _wait(attendant: Attendant, reporter: Reporter, stop: list[int]) -> bool:
    """Do what people ask for between two steps, and wait while the run is paused. Returns whether it is to stop."""
    wish = reporter.asked()
    if not (wish.pause or wish.save):
        return wish.stop
    attendant.journal.phase("paused")
    while True:
        if wish.save:
            attendant.save()
        if wish.stop or stop or not wish.pause:
            break
        time.sleep(0.05)
        wish = reporter.asked()
    attendant.journal.phase("training")
    return wish.stop


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
