"""Many objects on one device: each one's folder is that of a run alone, whatever happens to the others."""

import json
import threading
import time
import weakref
from dataclasses import replace

import pytest
import torch

from sjc_fast import load_score_model
from sjc_fast.runs import batch as module
from sjc_fast.runs.batch import DONE, FAILED, SKIPPED, STOPPED, Batch, Listener, ListSource, Models
from sjc_fast.runs.claims import Claims
from sjc_fast.runs.elsewhere import RemoteKeeper
from sjc_fast.runs.folder import RunFolder
from sjc_fast.runs.jobs import make_jobs
from sjc_fast.runs.journal import read_metrics
from sjc_fast.runs.reporter import Reporter
from sjc_fast.runs.run import run
from sjc_fast.runs.together import Together
from sjc_fast.scene.field import VoxelField
from sjc_fast.storage import remote
from sjc_fast.storage.remote import RemoteFolder
from sjc_fast.training.checkpoint import load_checkpoint
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.stack import Stack
from tests.support import pipelines
from tests.support.s3 import s3_server

WORDS = ("cat", "dog", "hat", "toy", "cup")
BASE = {"prompt": "x", "steps": 6, "size": 8, "guidance": 3.0, "field": {"resolution": 6}, "backend": "cpu"}
BASE["log"] = {"turntable_frames": 2, "turntable_size": 16, "metrics_every": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "pixels", vae=False)


@pytest.fixture(scope="module")
def model(folder):
    return load_score_model(str(folder), torch.device("cpu"), torch.float32)


def jobs(output, folder, rows=None, **changes):
    base = merge(TrainConfig(), BASE | {"model": str(folder)} | changes)
    rows = rows or [{"prompt": word, "seed": i, "steps": 6 + i % 3} for i, word in enumerate(WORDS)]
    return make_jobs(rows, lambda _: base, output)


class Told(Listener):
    """Keeps what it hears."""

    def __init__(self):
        self.started, self.over, self.steps, self.notes = [], [], 0, []

    def begun(self, job, position):
        self.started.append((job.config.prompt, position))

    def stepped(self, objects):
        self.steps += objects

    def ended(self, outcome):
        self.over.append((outcome.job.config.prompt, outcome.status))


def make(jobs, model, together=3, listener=None, keeper=None):
    batch = Batch(ListSource(jobs), together, listener or Told(), keeper, Models(model))
    batch.run()
    return batch


def assert_as_alone(job, model, folder):
    """The field to the bit, and the same files."""
    run(replace(job.config, output=folder), Reporter(), model)
    mine, theirs = VoxelField.load(job.folder.field), VoxelField.load(RunFolder(folder).field)
    for (name, a), (_, b) in zip(mine.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    files = [
        sorted(p.relative_to(f).as_posix() for p in f.rglob("*") if "events" not in p.name)
        for f in (job.folder.path, folder)
    ]
    assert files[0] == files[1]
    assert any("events" in p.name for p in job.folder.path.iterdir())
    measured = [[row | {"seconds": 0} for row in read_metrics(f)] for f in (job.folder, RunFolder(folder))]
    assert measured[0] == measured[1]


def test_folders_are_those_of_runs_alone(folder, model, tmp_path, same_bits):
    """Five objects of different lengths, three at a time."""
    told = Told()
    every = jobs(tmp_path / "batch", folder)
    batch = make(every, model, listener=told)
    assert [status for _, status in told.over] == [DONE] * 5
    assert told.started == [(word, 0) for word in WORDS]
    assert told.steps == sum(job.config.steps for job in every)
    for i in (0, 2, 4):
        assert_as_alone(every[i], model, tmp_path / str(i))
    record = json.loads(every[3].folder.record.read_text())
    assert (record["status"], record["steps"]) == ("finished", every[3].config.steps)
    assert not batch.stopped


def test_again_skips_what_is_done_and_goes_on_with_what_is_not(folder, model, tmp_path, same_bits):
    every = jobs(tmp_path / "batch", folder, log=BASE["log"] | {"checkpoint_every": 2})

    class Stopping(Told):
        def stepped(self, objects):
            super().stepped(objects)
            if self.steps > 21:  # two are done, two are in the middle, and one has not begun
                whole.ask_to_stop()

    told = Stopping()
    whole = Batch(ListSource(every), 2, told, models=Models(model))
    whole.run()
    assert whole.stopped
    assert sorted(status for _, status in told.over).count(STOPPED) >= 1
    positions = {
        job.config.prompt: load_checkpoint(job.folder.checkpoint).step
        for job in every
        if job.folder.checkpoint.exists() and not job.is_done()
    }
    assert positions
    again = Told()
    make(every, model, together=2, listener=again)
    assert {word for word, status in again.over if status == SKIPPED} == {
        word for word, status in told.over if status == DONE
    }
    assert dict(again.started).items() >= positions.items()
    assert all(job.is_done() for job in every)
    for job in every:
        if job.config.prompt in positions:
            assert_as_alone(job, model, tmp_path / job.config.prompt)
    third = make(every, model)
    assert [o.status for o in third.outcomes] == [SKIPPED] * 5


def test_a_failure_stops_nobody_else(folder, model, tmp_path, monkeypatch):
    """A NaN, an object that cannot be loaded, one that was started otherwise, and results that cannot be written."""
    rows = [{"prompt": word, "seed": i} for i, word in enumerate(WORDS)]
    every = jobs(tmp_path / "batch", folder, rows, log=BASE["log"] | {"checkpoint_every": 2})
    every[0].folder.make()
    (every[0].folder.config).write_text("prompt: [")
    make(jobs(tmp_path / "batch", folder, [{"prompt": "dog", "seed": 1}], steps=3), model)
    results = module.Attendant.finish

    def finish(self):
        if self.trainer.config.prompt == "hat":
            raise OSError("the disk is full")
        results(self)

    monkeypatch.setattr(module.Attendant, "finish", finish)

    class Poison(Told):
        def reporter(self, job):
            return Poisonous() if job.config.prompt == "toy" else Reporter()

    class Poisonous(Reporter):
        def start(self, trainer, folder):
            self.trainer = trainer

        def measured(self, position, metrics):
            if position == 3:
                self.trainer.field.density.data.fill_(float("nan"))

    batch = make(every, model, listener=Poison())
    messages = {o.job.config.prompt: (o.status, o.message) for o in batch.outcomes}
    assert messages["cat"][0] == FAILED
    assert "cannot be read" in messages["cat"][1]
    assert "steps 3, now 6" in messages["dog"][1]
    assert messages["hat"] == (FAILED, "OSError: the disk is full")
    assert "NaN or infinity at step 4" in messages["toy"][1]
    assert messages["cup"] == (DONE, "")
    assert json.loads(every[3].folder.record.read_text())["status"] == "failed"
    assert load_checkpoint(every[3].folder.checkpoint).step == 2  # the last good one


def test_memory_that_runs_out_makes_the_crew_smaller(folder, model, tmp_path, monkeypatch):
    step, sizes = Stack.step, []

    def limited(self):
        sizes.append(len(self.trainers))
        if len(self.trainers) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self)

    monkeypatch.setattr(Stack, "step", limited)
    batch = make(jobs(tmp_path / "batch", folder), model, together=5)
    assert [o.status for o in batch.outcomes] == [DONE] * 5
    assert sizes[0] == 5
    assert set(sizes[1:]) == {2}


def test_memory_that_is_too_small_for_a_stack_or_a_newcomer(folder, model, tmp_path, monkeypatch):
    """Before the first step, and as another one begins: nobody fails."""
    make_stack, make_trainer, living = Stack.__init__, module.Trainer.__init__, []

    def stack(self, trainers, steps):
        if len(trainers) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        make_stack(self, trainers, steps)

    def trainer(self, *arguments, **options):
        living[:] = [t for t in living if t() is not None and t().position < 6]
        if len(living) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        make_trainer(self, *arguments, **options)
        living.append(weakref.ref(self))

    monkeypatch.setattr(Stack, "__init__", stack)
    monkeypatch.setattr(module.Trainer, "__init__", trainer)
    batch = make(jobs(tmp_path / "batch", folder), model, together=5)
    assert [(o.job.config.prompt, o.status, o.message) for o in batch.outcomes if o.status != DONE] == []
    assert len(batch.outcomes) == 5


def test_an_object_that_is_too_large_alone_fails(folder, model, tmp_path, monkeypatch):
    def nothing(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module.Trainer, "step", nothing)
    batch = make(jobs(tmp_path / "batch", folder, [{"prompt": "cat"}]), model, together=1)
    assert [(o.status, "too little memory" in o.message) for o in batch.outcomes] == [(FAILED, True)]


def test_families_are_made_one_after_the_other(folder, model, tmp_path):
    """Objects of another size, or without guidance, cannot share a step."""
    rows = [{"prompt": w, "guidance": g} for w, g in zip(WORDS, (3, 1, 3, 1, 3), strict=True)]
    told = Told()
    make(jobs(tmp_path / "batch", folder, rows), model, listener=told)
    assert [word for word, _ in told.started] == ["cat", "hat", "cup", "dog", "toy"]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_finding_how_many_advance_together(backend, folder, model, tmp_path, monkeypatch):
    """With a renderer that cannot, one; else the number with the most steps a second."""
    seconds = {1: 1.0, 2: 1.2, 4: 1.9, 8: 8.0, 10: 11.0}
    clock, lately = [0.0], []
    monkeypatch.setattr(module.Together, "_wait", lambda self: None)
    monkeypatch.setattr("sjc_fast.runs.together.time.perf_counter", lambda: clock[0])
    for kind in (Stack, module.Turns):

        def timed(self, whole=kind.step):
            whole(self)
            clock[0] += seconds.get(len(self.trainers), 1.5)
            lately.append(len(self.trainers))

        monkeypatch.setattr(kind, "step", timed)
    rows = [{"prompt": f"{word} {i}"} for word in WORDS for i in range(2)]
    steps = 80 if backend == "cpu" else 8
    batch = make(jobs(tmp_path / "batch", folder, rows, steps=steps, backend=backend), model, together=None)
    assert [o.status for o in batch.outcomes] == [DONE] * 10
    tried = {row["objects"]: round(row["steps_per_second"], 2) for row in batch.tried}
    assert tried == ({} if backend == "reference" else {1: 1.0, 2: 1.67, 4: 2.11, 8: 1.0, 10: 0.91})
    most = max(lately[-100:])
    assert most == 1 if backend == "reference" else 4


def test_memory_ends_the_search(monkeypatch):
    together = Together(None, torch.device("cpu"))
    monkeypatch.setattr(Together, "_limit", lambda self: 100.0)
    used = iter([10.0, 20.0, 46.0])
    monkeypatch.setattr(Together, "_used", lambda self: next(used))
    for objects in (1, 2, 4):
        assert together.size == objects
        together._decide(objects, more=50, rate=float(objects))
    assert (together.settled, together.size) == (True, 4)  # eight would take 46 + 4 * 13 = 98 of 90


def test_claims(tmp_path, folder):
    """Of two processes one gets an object; of one that shows no sign of life, the other takes over."""
    first, second = jobs(tmp_path / "batch", folder)[:2]
    with Claims(tmp_path / "batch", beat=0.05, stale=0.4) as one, Claims(tmp_path / "batch", 0.05, 0.4) as two:
        assert one.claim(first)
        assert not two.claim(first)
        assert two.claim(second)
        time.sleep(0.6)
        assert not two.claim(first)  # it lives
        one._over.set()
        one._thread.join()
        time.sleep(0.6)
        assert two.claim(first)
        one.release(module.Outcome(first, DONE))  # it comes back, and leaves the other's claim alone
        assert (tmp_path / "batch" / ".claims" / f"{first.name}.json").exists()
        assert (
            two._remove_stale(tmp_path / "batch" / ".claims" / f"{first.name}.json") is False
        )  # a new one is put back
        assert two._owns(tmp_path / "batch" / ".claims" / f"{first.name}.json")
        two.release(module.Outcome(second, DONE))
        assert one.claim(second)
        one.release(module.Outcome(second, FAILED))
        assert not two.claim(second)
    assert list((tmp_path / "batch" / ".claims").glob("*.json")) == []


def test_two_processes_share_a_list(folder, model, tmp_path):
    """Each begins with its own and takes what the other has not begun; every object is made once."""
    every = jobs(tmp_path / "batch", folder)
    made = {}

    def work(which):
        with Claims(tmp_path / "batch") as claims:
            order = every[which::2] + every[1 - which :: 2]
            batch = Batch(ListSource(order, claims.claim, claims.release), 1, Told(), models=Models(model))
            made[which] = [o for o in batch.run() if o.status == DONE]

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [o.job.name for which in made for o in made[which]]
    assert sorted(names) == sorted(job.name for job in every)


def test_objects_that_are_kept_elsewhere(folder, model, tmp_path, monkeypatch, same_bits):
    """On an S3 server: stopped in the middle, gone on with from an empty folder, and a write that is refused."""
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    rows = [{"prompt": "cat", "steps": 8}, {"prompt": "dog", "seed": 1, "steps": 8}]

    class Stopping(Told):
        def stepped(self, objects):
            super().stepped(objects)
            if self.steps == 10:
                first.ask_to_stop()

    with s3_server(monkeypatch) as (application, url):
        application.words, application.times = "checkpoint", 1
        every = jobs(tmp_path / "here", folder, rows)
        first = Batch(ListSource(every), 2, Stopping(), RemoteKeeper(RemoteFolder(url)), Models(model))
        assert [o.status for o in first.run()] == [STOPPED, STOPPED]
        assert application.times == 0
        assert not list((tmp_path / "here").glob("*/*"))
        told = Told()
        elsewhere = jobs(tmp_path / "there", folder, rows)
        second = make(elsewhere, model, 2, told, RemoteKeeper(RemoteFolder(url)))
        assert [o.status for o in second.outcomes] == [DONE, DONE]
        assert told.started == [("cat", 5), ("dog", 5)]
        assert application.puts[-1].endswith("run.json")  # what says that it is finished comes last
        third = make(every, model, 2, Told(), RemoteKeeper(RemoteFolder(url)))
        assert [o.status for o in third.outcomes] == [SKIPPED, SKIPPED]
        RemoteFolder(url).fetch(every[1].name, every[1].folder.path)
        assert_as_alone(every[1], model, tmp_path / "alone")


def test_a_model_that_cannot_be_loaded(tmp_path):
    """Its objects fail, each with the reason, and it is not tried again for each."""
    batch = Batch(ListSource(jobs(tmp_path / "batch", tmp_path / "nothing")), 1, Told())
    assert [(o.status, "no model" in o.message) for o in batch.run()] == [(FAILED, True)] * 5
    assert len(batch.models._refused) == 1
