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
    replay(stack)
    graph = stack._replay
    stack.take(1)
    stack.put(1, newcomer)
    replay(stack)
    assert stack._replay is graph, "another object in a place needs another capture"
    assert stack.counters.shape == (TOGETHER,)
    return {
        "together": TOGETHER,
        "nodes": captured.nodes.total(),
        "kinds": by_kind(captured.nodes),
        "bytes": runs.memory(),
    }


def replay(stack: Stack) -> None:
    """A step of all is one launch: no copy, no wait, no allocation."""
    counts()
    with runs.no_waiting():
        stack.step()
    taken = counts()
    assert taken.launches == {"graph": 1}, f"a replay launches {dict(taken.launches)}, not one graph"
    assert not taken.calls, f"a replay calls {dict(taken.calls)}"
