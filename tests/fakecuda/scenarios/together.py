"""Objects of Stable Diffusion's shape that advance together: one graph, which another object's taking a place keeps."""

from __future__ import annotations

from typing import Any

from benchmarks import steps
from sjc_fast.training import graphs
from sjc_fast.training.config import merge
from sjc_fast.training.stack import Stack
from sjc_fast.training.trainer import Trainer

from .. import runs
from ..device import counts
from ..kinds import by_kind

TOGETHER = 4


def run() -> dict[str, Any]:
    s = runs.session(small=False)
    model = steps.stand_in(s)
    config = steps.configuration(s)
    runs.forget()
    made = (Trainer(merge(config, {"seed": i}), model, s.device, release=False) for i in range(TOGETHER + 1))
    *trainers, newcomer = made
    stack = Stack(trainers, config.steps)
    for _ in range(graphs.WARM_UP):
        stack.step()
    counts()
    stack.step()
    captured = counts()
    assert stack._replay is not None, "the step of several objects is not captured"
    runs.check_replay(stack.step)
    graph = stack._replay
    stack.take(1)
    stack.put(1, newcomer)
    runs.check_replay(stack.step)
    assert stack._replay is graph, "another object in a place needs another capture"
    assert stack.counters.shape == (TOGETHER,)
    return {
        "together": TOGETHER,
        "nodes": captured.nodes.total(),
        "kinds": by_kind(captured.nodes),
        "bytes": runs.memory(),
    }
