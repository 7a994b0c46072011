"""Which settings a run starts from: the model's own, the resumed run's, and what fits this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, setting
from ..scores.load import EMBEDDED, STABLE_DIFFUSION, folder_settings, model_folder
from ..scores.protocol import ScoreModel
from ..training.config import TrainConfig, differences, load_yaml, merge
from .folder import RunFolder

#: Presets that replace a model's own settings, as changes to `TrainConfig`, whose defaults are the paper's but for one.
PRESETS: dict[str, dict[str, Any]] = {"paper": {"preset": "paper", "score": {"antithetic": False}}}


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
        raise UserError(f"{setting('device')} {name}: give auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"{setting('device')} {name}: only cpu and cuda are supported")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{setting('device')} {name}: this machine has no usable CUDA device; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"{setting('device')} {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def default_model(device: str = "auto") -> str:
    """Stable Diffusion where there is a CUDA device to run it on, else the embedded model."""
    return STABLE_DIFFUSION if device != "cpu" and torch.cuda.is_available() else EMBEDDED


def default_config(model: str, preset: str = "model") -> TrainConfig:
    """The settings that suit a model: its own `sjc_fast.json`, or the paper's (always, with the preset "paper").

    Without a preset, the paper's come with antithetic noise where the number of noise samples is even: the mean of the
    estimate is the same.

    Raises:
        UserError: there is no such model, or its settings are wrong.
    """
    folder = model_folder(model)
    own = PRESETS.get(preset) or folder_settings(model).defaults
    # A folder is kept by its full path, so that the run can be rendered and resumed from anywhere.
    name = str(folder.resolve()) if folder and model != EMBEDDED else model
    return merge(replace(TrainConfig(), model=name), own, f"{model}/sjc_fast.json")


def sampling_guidance(model: ScoreModel) -> float:
    """The guidance scale for pictures: the model's own, or that of its kind's pipeline, for 3D takes more."""
    return float(getattr(model, "picture_guidance", None) or model.settings.get("guidance", 7.5))


def resumed_config(folder: Path, wanted: TrainConfig | None = None) -> TrainConfig:
    """The configuration of a run folder, set to continue in place.

    Raises:
        UserError: not a run folder, or `wanted` differs from it in something that decides the result.
    """
    saved = load_yaml(RunFolder(folder).config)
    if wanted is None:
        return replace(saved, output=folder, resume=folder)
    different = differences(saved, wanted)
    if different:
        raise UserError(f"{folder} was started with {'; '.join(different)}: resume it unchanged, or start a new run")
    if wanted.output != folder:
        raise UserError(f"{setting('output')} {wanted.output}: a resumed run goes on in its own folder, {folder}")
    return replace(wanted, resume=folder)


def network_dtype(name: str) -> torch.dtype | None:
    """The precision an option stands for; None where the loader chooses."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}.get(name)


def limit_memory(gigabytes: float | None, device: torch.device) -> None:
    """Let this process use only so many GiB of a CUDA device; None is no limit.

    Raises:
        UserError: the device is not a CUDA device.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        fraction = 1.0 if gigabytes is None else min(1.0, gigabytes * 2**30 / total)
        torch.cuda.set_per_process_memory_fraction(fraction, device.index)  # None is the current device
    elif gigabytes is not None:
        raise UserError(
            f"{setting('memory_limit')} {gigabytes:g}: it limits a CUDA device's memory, and the run is on the CPU"
        )


def check_words(model: str, prompt: str) -> None:
    """Refuse a prompt outside the words of a model, without loading it."""
    vocabulary = folder_settings(model).vocabulary
    if vocabulary:
        vocabulary.check(prompt)
