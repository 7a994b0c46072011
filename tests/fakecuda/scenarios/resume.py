"""A checkpoint of a replayed run, restored into another one: it is captured anew and goes on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import steps
from benchmarks.session import Session
from sjc_fast.training.checkpoint import load_checkpoint, save_checkpoint
from sjc_fast.training.trainer import Readout

from .. import runs
from ..device import counts

STEPS = 6  # before the checkpoint


def run() -> dict[str, Any]:
    s = runs.session()
    model = steps.stand_in(s)
    return {name: resume(s, model, name) for name in ("adamax", "adam")}


def resume(s: Session, model: Any, optimizer: str) -> dict[str, Any]:
    """What restoring copies, and the nodes of the graphs."""
    first, second = (runs.start(s, model, 2, optimizer={"name": optimizer}) for _ in range(2))
    _, before = runs.capture(first)
    while first.position < STEPS:
        first.step()
    runs.capture(second)  # it has a graph, of tensors that are then replaced
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        save_checkpoint(path, first.checkpoint())
        counts()
        second.restore(load_checkpoint(path))
    copies = counts().launches
    assert second._replay is None, "the graph of the old tensors is kept"
    assert second.position == STEPS, f"the run goes on from step {second.position}, not {STEPS}"
    _, after = runs.capture(second)
    assert after.nodes == before.nodes, "the graph after resuming is not the one before"
    readout = Readout(second.log)
    readout.send(second.position)
    arrived = [position for position, _ in readout.arrived(everything=True)]
    assert arrived == [second.position], f"metrics of the steps {arrived} arrive, not of {second.position}"
    return {"copies_of_restore": copies.total(), "nodes": after.nodes.total()}
