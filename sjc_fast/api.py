"""`generate`: the whole job in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .runs.reporter import CompositeReporter
from .runs.run import Result, run
from .runs.settings import PRESETS, default_config, default_model, resumed_config
from .scores.protocol import ScoreModel
from .training.config import TrainConfig, merge


def generate(
    prompt: str = "",
    model: str | ScoreModel | None = None,
    *,
    output: Path | str | None = None,
    resume: Path | str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Result:
    """Text in, 3D object out.

    Args:
        prompt: what to make.
        model: "shapes", a diffusers folder, a hub id, or a score model of yours; default Stable Diffusion 1.5 where
            there is a CUDA device, else "shapes".
        output: run folder; default the first free of runs/<prompt>, runs/<prompt>-2, …
        resume: run folder to continue instead; everything else then comes from there.
        progress: show a progress bar.
        settings: any setting of `TrainConfig`, nested ones as dicts: ``steps=300, field={"resolution": 64}``.

    Returns:
        `Result` with the field, the configuration, the model and the run folder.

    Raises:
        UserError: a wrong input; the message says which.
    """
    if model is None:
        model = default_model(settings.get("device", "auto"))
    ready = None if isinstance(model, str) else model
    if resume:
        config = resumed_config(Path(resume))
    else:
        preset = settings.get("preset", "model")
        if isinstance(model, str):
            base = default_config(model, preset)
        else:
            own = PRESETS.get(preset) or model.settings
            base = merge(TrainConfig(model=model.name), own, model.name)
        where = {"output": str(output)} if output else {}
        config = merge(base, {"prompt": prompt, **where, **settings}, "generate")
    from .runs.console import ProgressReporter
    from .runs.trackers import TensorBoardReporter

    reporters = [TensorBoardReporter(), *([ProgressReporter()] if progress else [])]
    return run(config, CompositeReporter(reporters), ready)
