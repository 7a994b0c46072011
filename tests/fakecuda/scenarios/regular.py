"""A run of Stable Diffusion's shape with previews and checkpoints: what share of its time they take from the steps.

Every step is made to take 8 ms of the clock, as long as the target for one on an H200. Pictures and files are real.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.nn.functional import interpolate

from benchmarks import steps
from sjc_fast.runs import run as running
from sjc_fast.runs.reporter import CompositeReporter
from sjc_fast.runs.settings import PRESETS
from sjc_fast.runs.trackers import TensorBoardReporter
from sjc_fast.scores.previews import STABLE_DIFFUSION_SCALE
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.trainer import Trainer

from .. import runs
from ..replacements import replace_for_runs

STEPS, STEP = 1500, 0.008  # seconds


def slowed(step: Callable[[Trainer], None]) -> Callable[[Trainer], None]:
    """The host waits until the device would be done."""

    def slow(trainer: Trainer) -> None:
        began = time.perf_counter()
        step(trainer)
        time.sleep(max(0.0, STEP - (time.perf_counter() - began)))

    return slow


def run() -> dict[str, Any]:
    replace_for_runs()
    s = runs.session(small=False)
    model = steps.stand_in(s)
    model.prepare_decoder = lambda: None  # it has no VAE, which the last preview asks for
    model.decode = lambda features: interpolate(features[:, :3].sigmoid(), scale_factor=model.upscale)
    model.latents.scale = STABLE_DIFFUSION_SCALE  # previews by the linear map, as of Stable Diffusion
    Trainer.step = slowed(Trainer.step)
    with tempfile.TemporaryDirectory() as folder:
        changes = {"prompt": "it", "steps": STEPS, "output": f"{folder}/run", "device": "cuda", "backend": "triton"}
        config = merge(merge(TrainConfig(), PRESETS["paper"]), changes)
        running.run(config, CompositeReporter([TensorBoardReporter()]), model)
        seconds = json.loads(Path(folder, "run", "run.json").read_text())["seconds"]
        pictures = len(list(Path(folder, "run", "timeline").iterdir()))
    share = seconds["previews and checkpoints"] / seconds["training"]
    assert pictures > 1, f"there are {pictures} previews"
    return {"steps": STEPS, "seconds_a_step": STEP, "seconds": seconds, "pictures": pictures, "share": share}
