"""Which settings a run starts from: the model's own, the resumed run's, and what fits this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .config import TrainConfig, differences, load_yaml, merge
from .errors import UserError
from .scores.diffusers import FolderSettings
from .scores.load import EMBEDDED, STABLE_DIFFUSION, model_folder

CONFIG = "config.yaml"


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
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine has no usable CUDA device; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def default_model(device: str = "auto") -> str:
    """Stable Diffusion where there is a CUDA device to run it on, else the embedded model."""
    return STABLE_DIFFUSION if device != "cpu" and torch.cuda.is_available() else EMBEDDED


def default_config(model: str) -> TrainConfig:
    """The settings that suit a model: its own `sjc_fast.json`, or the paper's.

    Raises:
        UserError: there is no such model, or its settings are wrong.
    """
    folder = model_folder(model)
    own = FolderSettings.read(folder).defaults if folder else {}
    # A folder is kept by its full path, so that the run can be rendered and resumed from anywhere.
    name = str(folder.resolve()) if folder and model != EMBEDDED else model
    return merge(replace(TrainConfig(), model=name), own, f"{model}/sjc_fast.json")


def resumed_config(folder: Path, wanted: TrainConfig | None = None) -> TrainConfig:
    """The configuration of a run folder, set to continue in place.

    Raises:
        UserError: not a run folder, or `wanted` differs from it in something that decides the result.
    """
    saved = load_yaml(folder / CONFIG)
    if wanted is None:
        return replace(saved, output=folder, resume=folder)
    different = differences(saved, wanted)
    if different:
        raise UserError(f"{folder} was started with {'; '.join(different)}: resume it unchanged, or start a new run")
    if wanted.output != folder:
        raise UserError(f"--output {wanted.output}: a resumed run goes on in its own folder, {folder}")
    return replace(wanted, resume=folder)


def check_words(config: TrainConfig) -> None:
    """Refuse a prompt outside the words of the model that the configuration names, without loading it."""
    folder = model_folder(config.model)
    vocabulary = FolderSettings.read(folder).vocabulary if folder else None
    if vocabulary:
        vocabulary.check(config.prompt)
