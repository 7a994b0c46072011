"""The step of Stable Diffusion 1.5's shape: what it launches, its graph, what a replay does, memory."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks import steps
from sjc_fast.training.steps import Metrics
from sjc_fast.training.trainer import Readout, Trainer

from .. import runs
from ..device import counts
from ..kinds import by_kind
from ..traffic import Traffic, is_work


def run() -> dict[str, Any]:
    s = runs.session(small=False)
    model = steps.stand_in(s)
    runs.forget()
    trainer = runs.start(s, model)
    began = time.monotonic()
    eager, captured = runs.capture(trainer)
    found: dict[str, Any] = {
        "seconds_until_captured": time.monotonic() - began,
        "attention": model.attention.name,
        "eager_launches": eager.launches.total(),
        "nodes": captured.nodes.total(),
        "kinds": by_kind(captured.nodes),
        "bytes": runs.memory(),
    }
    runs.check_replay(trainer.step)
    check_metrics(trainer)
    del trainer
    runs.forget()
    found["network"] = network(model)
    found["outside_of_the_unet"] = outside(s, model)
    plain = steps.stand_in(s, fused=False)
    _, captured = runs.capture(runs.start(s, plain))
    called_plainly = {"nodes": captured.nodes.total(), "kinds": by_kind(captured.nodes), "network": network(plain)}
    check_helpers(found, called_plainly)
    return found | {"with_diffusers_call": called_plainly}


def check_metrics(trainer: Trainer) -> None:
    """Metrics are sent without waiting, by one copy to pinned memory; and the watch over that would see a wait."""
    readout = Readout(trainer.log)
    counts()
    with runs.no_waiting():
        readout.send(trainer.position)
        sent = counts()
        try:
            trainer.log.sum().item()
        except RuntimeError:
            pass
        else:
            raise AssertionError("reading a number does not count as waiting")  # then the watch sees nothing
    copies = {"memcpy device to pinned": 1}
    assert sent.launches == copies, f"sending metrics launches {dict(sent.launches)}, not one copy to pinned memory"
    assert sent.waits == 0, f"sending metrics waits: {dict(sent.calls)}"
    ((position, metrics),) = readout.arrived(everything=True)
    assert position == trainer.position, f"metrics of step {position} arrive, not of {trainer.position}"
    assert tuple(metrics) == Metrics._fields, f"the metrics {', '.join(metrics)} arrive"


def network(model: Any) -> dict[str, int]:
    """What a call of the network with guidance, for one noised copy of a view, moves in its helpers."""
    config = model.network.config
    shape = (2, model.channels, config.sample_size, config.sample_size)
    batch = torch.empty(shape, dtype=model.dtype, device="cuda").contiguous(memory_format=torch.channels_last)
    text = torch.empty(2, 77, config.cross_attention_dim, dtype=model.dtype, device="cuda")
    tick = torch.empty(2, device="cuda")
    model.predict(batch, tick, text)
    with Traffic() as traffic:
        model.predict(batch, tick, text)
    return {"helper_bytes": traffic.helpers}


def check_helpers(fused: dict[str, Any], plain: dict[str, Any]) -> None:
    """Our call of the network has the same convolutions and products (of which convolutions of one pixel are one in
    ours), the same attentions, and little beside them."""
    work, expected = (sum(number for kind, number in row["kinds"].items() if is_work(kind)) for row in (fused, plain))
    assert work == expected, f"{work} convolutions, products and attentions instead of {expected}"
    assert fused["nodes"] <= 500, f"the graph has {fused['nodes']} nodes"
    moved = fused["network"]["helper_bytes"]
    assert moved <= 0.2e9, f"helpers of the network move {moved / 1e9:.2f} GB"


def outside(s: Any, model: Any) -> dict[str, Any]:
    """The step without its network, whose answer is what it is asked."""
    model.predict = lambda batch, noise, text: batch
    _, captured = runs.capture(runs.start(s, model))
    assert captured.nodes.total() <= 20, f"{captured.nodes.total()} nodes lie outside of the network"
    return {"nodes": captured.nodes.total(), "kinds": by_kind(captured.nodes)}
