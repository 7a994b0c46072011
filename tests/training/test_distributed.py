"""One object by several processes: the same update as by one, and replicas that stay the same."""

import os
import socket
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing

from sjc_fast import UserError, load_score_model
from sjc_fast.training import distributed
from sjc_fast.training.checkpoint import load_checkpoint, save_checkpoint
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.distributed import SharedScorer, device_of_rank, introduced
from sjc_fast.training.trainer import Trainer
from tests.support import pipelines

STEPS, HALF = 50, 20


def config(**changes):
    tree = {"prompt": "a cat", "steps": STEPS, "size": 8, "guidance": 4.0, "views": 2, "noise_samples": 4}
    tree |= {"field": {"resolution": 6}, "losses": {"depth_weight": 1.0}, "backend": "cpu"}
    return merge(TrainConfig(), tree | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "pixels", vae=False)


def work(rank, count, port, model, out):
    """A process of `count`: a whole run, and one from the checkpoint of half as many processes on, if there is one."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    model = load_score_model(str(model), torch.device("cpu"), torch.float32)
    with introduced("cpu") as ranks:
        trainer = Trainer(config(), model, release=False, ranks=ranks)
        for position in trainer.remaining():
            assert ranks.agree(position, stop=False, log=trainer.log) is False
            if position == HALF and ranks.leads:
                save_checkpoint(out / f"half-{count}", trainer.checkpoint())
        torch.save((trainer.field.state_dict(), trainer.log), out / f"{count}-{rank}")
        if (out / f"half-{count // 2}").exists():
            trainer = Trainer(config(), model, release=False, ranks=ranks)
            trainer.restore(load_checkpoint(out / f"half-{count // 2}"))
            for _ in trainer.remaining():
                pass
            torch.save(trainer.field.state_dict(), out / f"resumed-{count}-{rank}")


@pytest.mark.slow
def test_as_one_process_and_resumed_with_other_numbers(folder, tmp_path):
    """Two share the views, four also the noise samples; four go on where two were, and one where four were."""
    model = load_score_model(str(folder), torch.device("cpu"), torch.float32)
    alone, last = (Trainer(config(), model, release=False) for _ in range(2))
    for _ in alone.remaining():
        pass
    truth = alone.field.state_dict()
    for count in (2, 4):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torch.multiprocessing.spawn(work, (count, port, folder, tmp_path), count)
        replicas = [torch.load(tmp_path / f"{count}-{rank}") for rank in range(count)]
        for field, measured in replicas[1:]:
            assert all(torch.equal(field[name], replicas[0][0][name]) for name in truth)
            assert torch.equal(measured, replicas[0][1])
        assert_near(replicas[0][0], truth)
        torch.testing.assert_close(replicas[0][1][:3], alone.log[:3], rtol=1e-6, atol=1e-6)
    assert_near(torch.load(tmp_path / "resumed-4-3"), truth)
    last.restore(load_checkpoint(tmp_path / "half-4"))
    for _ in last.remaining():
        pass
    assert_near(last.field.state_dict(), truth)


def assert_near(field, truth):
    """50 steps of Adamax magnify the rounding of a sum: to a few millionths of numbers around 1."""
    for name, theirs in truth.items():
        torch.testing.assert_close(field[name], theirs, rtol=0, atol=3e-5)


class Alone:
    """Stands for one of several processes, whose sums are its own."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count

    def sum(self, x):
        pass


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize(
    ("count", "views", "samples", "antithetic"), [(2, 2, 2, True), (4, 2, 4, True), (3, 1, 3, False)]
)
def test_shares_add_up_to_the_whole(folder, backend, count, views, samples, antithetic):
    """The updates of all processes, added here, are the update of one; for the eager scorer and the fused one."""
    model = load_score_model(str(folder), torch.device("cpu"), torch.float32)
    score = {"antithetic": antithetic, "negative_prompt": "ugly"}
    run = Trainer(config(backend=backend, views=views, noise_samples=samples, score=score), model, release=False)
    scorer, row = run.train_step.scorer, run.schedule[3]
    x = torch.randn(views, model.channels, 8, 8, generator=torch.Generator().manual_seed(2))
    whole, settings, total = scorer(x, row), scorer.settings, torch.zeros_like(x)
    for rank in range(count):
        scorer.settings, scorer.share = settings, (0, 0, 0)
        total += SharedScorer(scorer, Alone(rank, count), views)(x, row)
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-6 * float(whole.abs().max()))


def test_work_that_cannot_be_divided(folder):
    model = load_score_model(str(folder), torch.device("cpu"), torch.float32)
    scorer = Trainer(config(), model, release=False).train_step.scorer
    settings = replace(scorer.settings, antithetic=False)
    for count, views, samples, words in (
        (3, 2, 4, "3 devices cannot share 2 views of 4 noise"),
        (2, 1, 1, "1 view of"),
    ):
        scorer.settings = replace(settings, noise_samples=samples)
        with pytest.raises(UserError, match=words):
            SharedScorer(scorer, Alone(0, count), views)
    scorer.settings = replace(settings, estimator="auto", noise_samples=4)
    with pytest.raises(UserError, match="give 2 devices more views"):
        SharedScorer(scorer, Alone(0, 2), 1)
    SharedScorer(scorer, Alone(0, 2), 2)


def test_which_device(monkeypatch):
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [str(device_of_rank(name)) for name in ("auto", "cuda", "cpu", "cuda:0")] == [
        "cuda:1",
        "cuda:1",
        "cpu",
        "cuda:0",
    ]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 has no device"):
        device_of_rank("auto")
