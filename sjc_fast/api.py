"""`generate`: the whole job in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .config import TrainConfig, merge
from .run import Result, SilentReporter, default_config, run
from .scores.load import EMBEDDED
from .scores.protocol import ScoreModel


def generate(
    prompt: str,
    model: str | ScoreModel = EMBEDDED,
    *,
    output: Path | str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Result:
    """Text in, 3D object out.

    Args:
        prompt: what to make.
        model: "shapes", a diffusers folder, a hub id, or a score model of yours.
        output: run folder; default runs/<prompt>.
        progress: show a progress bar.
        settings: any setting of `TrainConfig`, nested ones as dicts: ``steps=300, field={"resolution": 64}``.

    Returns:
        `Result` with the field, the configuration, the model and the run folder.

    Raises:
        UserError: a wrong input; the message says which.
    """
    if isinstance(model, str):
        base = default_config(model)
    else:
        base = merge(TrainConfig(model=model.name), model.settings, model.name)
    where = {"output": str(output)} if output else {}
    config = merge(base, {"prompt": prompt, **where, **settings}, "generate")
    reporter = SilentReporter()
    if progress:
        from .cli.reporting import ProgressReporter

        reporter = ProgressReporter()
    return run(config, reporter, None if isinstance(model, str) else model)
