"""What is written while the steps go on: in order, nothing lost, errors told; and when it is due."""

import threading
import time

import pytest
import torch

from sjc_fast import load_score_model
from sjc_fast.runs import attend
from sjc_fast.runs.results import take_preview
from sjc_fast.runs.writer import BackgroundWriter
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.trainer import Trainer
from tests.support import pipelines


class Broken(Exception):
    pass


def fail():
    raise Broken("the disk is full")


@pytest.mark.parametrize("interrupted", [False, True])
def test_everything_is_done_in_order_before_the_end(interrupted):
    """Also where an exception ends it; by another thread, and with little waiting."""
    done, others, waiting = [], set(), []

    def slow(i):
        time.sleep(0.01)
        others.add(threading.current_thread())
        done.append(i)

    try:
        with BackgroundWriter() as writer:
            for i in range(8):
                writer.submit(slow, i)
                waiting.append(i + 1 - len(done))
            if interrupted:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert interrupted
    assert done == list(range(8))
    assert threading.current_thread() not in others
    assert len(others) == 1
    assert max(waiting) <= BackgroundWriter.WAITING + 2  # one is being done, one was given meanwhile


def write(*jobs, end=None):
    """Give jobs, a moment apart, and end with an error if there is one."""
    with BackgroundWriter() as writer:
        for job in jobs:
            writer.submit(job)
            time.sleep(0.01)
        if end:
            raise end


def test_errors_reach_who_gave_the_work(caplog):
    done = []
    with pytest.raises(Broken):
        write(fail)
    with pytest.raises(Broken):
        write(fail, *[lambda: done.append(1)] * 50)
    assert done == []
    assert caplog.messages == []
    with pytest.raises(KeyboardInterrupt):  # the first error is the one to be seen
        write(fail, end=KeyboardInterrupt())
    assert caplog.messages == ["the disk is full"]


def test_what_is_due(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(attend.time, "monotonic", lambda: now[0])
    by_steps, by_time = attend.Cadence(3, 1.0), attend.Cadence(None, 2.0)
    found = []
    for step in range(1, 10):
        now[0] += 0.9
        found.append((by_steps.due(step), by_time.due(step)))
    assert [step for step, (a, _) in enumerate(found, 1) if a] == [3, 6, 9]
    assert [step for step, (_, b) in enumerate(found, 1) if b] == [3, 6, 9]
    now[0] += 100
    assert [by_time.due(10), by_time.due(11)] == [True, False]  # what was missed is not made up for


def test_previews_have_the_size_of_the_latents(tmp_path):
    model = load_score_model(str(pipelines.stable_diffusion(tmp_path / "model")), device="cpu")
    config = merge(TrainConfig(), {"prompt": "it", "steps": 2, "field": {"resolution": 8}})
    trainer = Trainer(config, model)
    assert take_preview(trainer, decoded=False).shape == (3, 2 * 16, 4 * 16)
    assert take_preview(trainer).shape == (3, 2 * 32, 4 * 32)
    assert bool(torch.isfinite(take_preview(trainer, decoded=False)).all())
