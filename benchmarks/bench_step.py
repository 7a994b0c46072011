"""pytest-benchmark: whole training steps. On a CPU with the embedded model; on a GPU with a UNet of Stable Diffusion
1.5's shape, as a CUDA graph and eagerly. `benchmarks.steps` splits them into parts; `benchmarks.gpu` judges them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sjc_fast import load_score_model
from sjc_fast.runs.settings import default_config
from sjc_fast.training.config import merge
from sjc_fast.training.trainer import Trainer

from .session import Session
from .steps import stand_in, warmed

CUDA = torch.cuda.is_available()


def bench_embedded_step(benchmark):
    """As `sjc-fast train` takes it by default, two noise samples; never past the end of its schedule."""
    benchmark.group = "step, embedded model"
    config = merge(default_config("shapes"), {"prompt": "a red mushroom", "device": "cpu"})
    run = Trainer(config, load_score_model("shapes", "cpu"), "cpu")
    benchmark.pedantic(run.step, rounds=20, warmup_rounds=3)
    assert run.is_finite()


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("samples", [1, 4, 8, 16])
def bench_stable_diffusion_step(benchmark, samples, graph):
    """The paper's settings with more noise samples; the device awaited after every step."""
    benchmark.group = f"step, Stable Diffusion's shape, N = {samples}"
    s = Session(small=False, output=Path("unused"))
    run = warmed(s, stand_in(s), samples, graph)

    def awaited() -> None:
        run.step()
        s.clock.wait()

    benchmark.pedantic(awaited, rounds=50, warmup_rounds=3)
