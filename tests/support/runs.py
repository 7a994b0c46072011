"""Runs in memory, compared."""

import torch

from sjc_fast.training.config import merge
from sjc_fast.training.trainer import Trainer


def assert_same(a, b):
    """Two trainers have the same field, to the bit."""
    for (name, x), (_, y) in zip(a.field.state_dict().items(), b.field.state_dict().items(), strict=True):
        assert torch.equal(x, y), name


def assert_renderers_agree(model, config, backends=("reference", "cpu", "triton")):
    """Three steps measure the same: with the reference renderer, the compiled one, and the fused step in Triton."""
    logs = []
    for backend in backends:
        tree = {"prompt": "it", "steps": 3, "backend": backend, "field": {"resolution": 6}}
        run = Trainer(merge(config, tree), model)
        for _ in run.remaining():
            pass
        logs.append(run.log)
    assert bool(logs[0].isfinite().all())
    for log in logs[1:]:
        torch.testing.assert_close(log, logs[0], rtol=1e-3, atol=1e-4)
