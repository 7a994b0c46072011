"""A small device: the batch is split, and the step still captured."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import steps

from .. import runs

SAMPLES = 8


def run() -> dict[str, Any]:
    s = runs.session(small=False)
    model = steps.stand_in(s)
    runs.forget()
    eager, captured = runs.capture(runs.start(s, model, SAMPLES))
    whole = 2 * SAMPLES  # with guidance
    assert model.most is not None, f"all {whole} inputs fit"
    assert 1 < model.most < whole, f"{model.most} of {whole} inputs go through the network at a time"
    return {
        "bytes_of_the_device": torch.cuda.get_device_properties(0).total_memory,
        "inputs": whole,
        "inputs_at_a_time": model.most,
        "eager_launches": eager.launches.total(),
        "nodes": captured.nodes.total(),
        "bytes": runs.memory(),
    }
