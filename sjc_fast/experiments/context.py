"""Where an experiment runs: model, settings, judge, and the runs that were made already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..scores.diffusers import DiffusersModel
from ..training.config import TrainConfig
from .judges import Judge
from .known import KnownScenes
from .run_cache import RunCache
from .unknown import UnknownScenes


@dataclass
class Context:
    """Where an experiment runs, and how much it may take."""

    model: DiffusersModel
    name: str
    """The model's, as given."""
    prompt: str
    """As given; "" for the experiments' own."""
    judge: Judge
    base: TrainConfig
    """Settings that runs start from: the model's own."""
    device: torch.device
    seeds: tuple[int, ...]
    small: bool
    """As little as shows that it works."""
    run_cache: RunCache
    """Runs of this experiment that were made already."""
    say: Callable[[str], None]

    def pick(self, full: Any, small: Any) -> Any:
        """One of two sizes."""
        return small if self.small else full

    @property
    def quality(self) -> str:
        """Which figure of a judgement says how good an object is."""
        return next(iter(self.judge.labels))

    @property
    def label(self) -> str:
        """What it is called, with its unit."""
        return self.judge.labels[self.quality]


def choose_judge(model: DiffusersModel, scenes: str, base: TrainConfig, prompt: str, small: bool) -> Judge:
    """Against the truth where the model's scenes are known ("shapes"), else by the model itself."""
    return KnownScenes(prompt, small) if scenes == "shapes" else UnknownScenes(model, base, prompt)
