"""Runs of the trainer as the scenarios start, capture and describe them."""

from __future__ import annotations

import contextlib
import gc
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import steps
from benchmarks.session import Session
from sjc_fast.training import graphs
from sjc_fast.training.trainer import Trainer

from .device import Counts, counts


def session(small: bool = True) -> Session:
    """Sizes of Stable Diffusion 1.5, or tiny ones."""
    s = Session(small, Path(os.devnull))
    del s.clock.flush  # its memory is not the step's
    return s


def start(s: Session, model: Any, samples: int = 1, **changes: Any) -> Trainer:
    """A run with a graph that has not taken a step."""
    return Trainer(steps.configuration(s, samples, graph=True, **changes), model, s.device)


def capture(run: Trainer) -> tuple[Counts, Counts]:
    """Warm a run up and let it capture; what the last eager step did, and the step that was captured and replayed.

    Raises:
        AssertionError: it was not captured, or its graph is not what an eager step launches.
    """
    for _ in range(graphs.WARM_UP):
        counts()
        run.step()
    eager = counts()
    run.step()
    captured = counts()
    assert run._replay is not None, "the step was not captured"
    assert captured.calls["capture ended"] == 1, f"{captured.calls['capture ended']} captures ended, not one"
    beside = captured.calls["launched beside the capture"]
    assert beside == 0, f"{beside} launches went to another stream while the step was captured"
    assert captured.nodes == eager.launches, "the graph does not hold exactly what an eager step launches"
    return eager, captured


def spoil(model: Any, disturb: Callable[[torch.Tensor], object]) -> None:
    """Let a model do something with the noise levels whenever it is captured, and only then."""
    usual = model.predict

    def predict(batch: torch.Tensor, noise: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            disturb(noise)
        return usual(batch, noise, text)

    model.predict = predict


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the device fails, by PyTorch's own watch.

    Raises:
        AssertionError: something waited, or failed for another reason.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not see everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        raise AssertionError(f"the device is waited for: {error}") from error
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_replay(step: Callable[[], None]) -> None:
    """A step is one launch: no copy, no wait, no allocation.

    Raises:
        AssertionError: it is more.
    """
    counts()
    with no_waiting():
        step()
    taken = counts()
    assert taken.launches == {"graph": 1}, f"a replay launches {dict(taken.launches)}, not one graph"
    assert not taken.calls, f"a replay calls {dict(taken.calls)}"


def forget() -> None:
    """Nothing that is not used is reserved, and peaks are counted from here."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def memory() -> dict[str, int]:
    """Bytes of the current device, now and at the peak."""
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
    }
