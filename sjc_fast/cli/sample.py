"""`sjc-fast sample`: pictures from the score model alone, without 3D."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from ..errors import UserError
from ..export.pictures import save_picture
from ..runs.settings import default_model, network_dtype, pick_device, sampling_guidance
from ..scene.cameras import ring
from ..scores.load import load_score_model
from ..scores.sampling import Sampler, sample_steps
from ..storage.files import prepare
from . import check_limits, parse


@dataclass
class SampleOptions:
    """What the score model imagines, by the sampler of Karras et al."""

    prompt: str
    """What to show; the embedded model takes a direction too, e.g. "front view of a red mushroom"."""
    output: Path = Path("samples.png")
    model: str | None = None
    """Default Stable Diffusion where there is a CUDA device, else the embedded model."""
    count: int = 4
    """Pictures, side by side."""
    steps: int = 32
    guidance: float | None = None
    """Guidance scale; default 7.5 for hub models, else what the model's own settings say."""
    euler: bool = False
    """First order: half the evaluations of the default, Heun's method."""
    churn: float = 0.0
    """New noise on the way (S_churn); 0 is deterministic."""
    rho: float = 7.0
    """Bend of the noise schedule."""
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp16", "bf16", "fp32"] = "auto"


def main(arguments: list[str]) -> None:
    """Sample, write, say where."""
    options = parse(SampleOptions, arguments, "sample")
    if options.output.suffix != ".png":
        raise UserError(f"--output {options.output}: a picture's name ends in .png")
    limits = {"count": (1, 256), "steps": (1, 10_000), "seed": (0, 2**63 - 1)}
    check_limits(options, {**limits, "guidance": (-1000, 1000), "churn": (0, 10_000), "rho": (0.1, 100)})
    name = options.model or default_model(options.device)
    device = pick_device(options.device)
    prepare(options.output)
    model = load_score_model(name, device, network_dtype(options.precision))
    model.check_prompt(options.prompt)
    guidance = sampling_guidance(model) if options.guidance is None else options.guidance
    sampler = Sampler(options.steps, options.rho, heun=not options.euler, churn=options.churn)
    noise = torch.Generator().manual_seed(options.seed)
    prompts = [options.prompt] * options.count
    c2w = ring(model.views, 15.0, 1.0, 40.0).c2w.repeat(-(-options.count // model.views), 1, 1)  # of multi-view models
    steps = sample_steps(model, prompts, sampler, guidance=guidance, generator=noise, c2w=c2w)
    for _, x in tqdm(steps, total=options.steps, unit="step", disable=None):  # noqa: B007
        pass
    save_picture(torch.cat(list(model.decode(x)), dim=-1), options.output)
    print(options.output)
