"""Captures that fail, and what they leave behind."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import steps
from benchmarks.session import Session
from sjc_fast.training import graphs
from sjc_fast.training.trainer import Trainer

from .. import runs
from ..device import counts

BLOCK = 64 << 20  # bytes


def interrupt(_: torch.Tensor) -> None:
    """As a person who presses Ctrl-C."""
    raise KeyboardInterrupt


#: Why a capture fails: what the network does with the noise levels.
REASONS: dict[str, Callable[[torch.Tensor], object]] = {
    "host": lambda noise: noise[0].item(),
    "memory": lambda noise: torch.empty(1 << 45, dtype=torch.uint8, device=noise.device),
    "interrupt": interrupt,
}


def run() -> dict[str, Any]:
    s = runs.session()
    return {reason: fail(s, disturb) for reason, disturb in REASONS.items()}


def fail(s: Session, disturb: Callable[[torch.Tensor], object]) -> dict[str, Any]:
    """A run whose capture fails, and another one after it that captures; nodes of the second one's graph."""
    model = steps.stand_in(s)
    usual = model.predict
    runs.spoil(model, disturb)
    trainer = runs.start(s, model)
    for _ in range(graphs.WARM_UP):
        trainer.step()
    counts()
    with contextlib.suppress(KeyboardInterrupt):
        trainer.step()
    assert counts().calls["capture begun"] == 1, "no capture was begun"
    assert trainer._replay is None, "the capture succeeded"
    check_device(trainer)
    model.predict = usual
    _, captured = runs.capture(runs.start(s, model))
    return {"nodes_of_the_next_run": captured.nodes.total()}


def check_device(trainer: Trainer) -> None:
    """Stream, generator and allocator are as before a capture."""
    device = trainer.device
    assert torch.cuda.current_stream() == torch.cuda.default_stream(), "the stream of the capture is still current"
    torch.rand(3, device=device)  # a generator that believes in a capture refuses
    gc.collect()
    torch.cuda.empty_cache()
    held, other = torch.cuda.memory_reserved(), torch.cuda.Stream()
    for _ in range(20):  # an open pool keeps what other streams used
        block = torch.empty(BLOCK, dtype=torch.uint8, device=device)
        block.record_stream(other)
        del block
    grown = torch.cuda.memory_reserved() - held
    assert grown <= 2 * BLOCK, f"{grown >> 20} MiB are reserved for one block of {BLOCK >> 20} MiB at a time"
    torch.cuda.empty_cache()
    grown = torch.cuda.memory_reserved() - held
    assert grown <= 0, f"{grown >> 20} MiB are not given back"
