"""A Ray cluster on this machine: a node that dies, a bad prompt, storage on S3, and nobody at the address."""

import os
import signal
import socket
import threading
import time

import pytest
import torch

from sjc_fast import UserError, load_score_model
from sjc_fast.farm import driver
from sjc_fast.farm.driver import Farm, FarmSettings, connect, connect_only, status
from sjc_fast.runs.batch import DONE, FAILED, STOPPED, Listener
from sjc_fast.runs.journal import read_metrics
from sjc_fast.runs.reporter import Reporter
from sjc_fast.runs.run import run
from sjc_fast.scene.field import VoxelField
from sjc_fast.storage.remote import RemoteFolder
from sjc_fast.training.checkpoint import load_checkpoint
from tests.runs.test_batch import jobs
from tests.support import pipelines
from tests.support.s3 import s3_server

ray = pytest.importorskip("ray")
STEPS, EVERY = 300, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "pixels", vae=False)


@pytest.fixture
def cluster(monkeypatch):
    """A head that computes nothing, and two machines of one core, each with what passes for a GPU."""
    from ray.cluster_utils import Cluster

    for name in ("HTTP_PROXY", "http_proxy", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # A machine whose connection does not close as it dies is noticed by checks, here in five seconds.
    checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": checks}
    found = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


def settings(output, **changes):
    return FarmSettings(**({"address": "", "output": str(output), "together": 2, "deterministic": True, "gpus": 1.0,
                            "cpus": 1.0} | changes))  # fmt: skip


class Told(Listener):
    def __init__(self):
        self.steps, self.said = 0, []

    def stepped(self, objects):
        self.steps += objects

    def announce(self, message):
        self.said.append(message)


def objects(output, folder, prompts, **changes):
    rows = [{"prompt": prompt, "seed": i} for i, prompt in enumerate(prompts)]
    log = {"turntable_frames": 2, "turntable_size": 16, "metrics_every": 1, "checkpoint_every": EVERY}
    return jobs(output, folder, rows, steps=STEPS, log=log, **changes)


def assert_as_alone(job, folder, field, scratch):
    """The object to the bit as a run in this process makes it."""
    torch.use_deterministic_algorithms(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = load_score_model(str(folder), torch.device("cpu"))
        alone = run(job.config.__class__(**(vars(job.config) | {"output": scratch})), Reporter(), model)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    mine = VoxelField.load(field)
    for (name, a), (_, b) in zip(mine.state_dict().items(), alone.field.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def step_of(path):
    return load_checkpoint(path).step if path.exists() else 0


@pytest.mark.slow
def test_a_node_dies_and_every_object_ends_as_alone(cluster, folder, tmp_path):
    """Six objects on two machines; one is killed in the middle; another one joins."""
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
    every = objects(tmp_path / "batch", folder, ("cat", "dog", "hat", "toy", "cup", "pen"))
    told, stop, found, lost = Told(), [], [], {}
    farm = Farm(every, settings(tmp_path / "batch"), told, connect(cluster.address))
    thread = threading.Thread(target=lambda: found.append(farm.run(stop)), daemon=True)
    thread.start()

    def positions():
        return {
            job.name: (rows[-1]["step"], step_of(job.folder.checkpoint))
            for job in every
            if not job.is_done() and (rows := read_metrics(job.folder))
        }

    deadline = time.monotonic() + 120
    while sum(at > 2 * EVERY for at, _ in positions().values()) < 3:  # both machines are in the middle
        assert time.monotonic() < deadline
        time.sleep(0.1)
    began = time.monotonic()
    own = ray.get_runtime_context().get_node_id()  # which is the machine of this process: any of those on this host
    victim = next(node for node in nodes if node.node_id != own)
    os.kill(victim.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    lost = positions()
    while not told.said:
        assert time.monotonic() - began < 20
        time.sleep(0.05)
    cluster.add_node(num_cpus=1, num_gpus=1)
    assert status(cluster.address)["output"] == str(tmp_path / "batch")
    thread.join(timeout=240)
    assert not thread.is_alive()
    assert farm.lost == 1
    assert [(o.job.name, o.message) for o in found[0] if o.status != DONE] == []
    for at, kept in lost.values():  # a step may be under way when the positions are read
        assert at - kept <= EVERY + 1
    assert_as_alone(every[0], folder, every[0].folder.field, tmp_path / "alone-0")
    assert_as_alone(every[3], folder, every[3].folder.field, tmp_path / "alone-3")
    with pytest.raises(UserError, match="no farm is at work"):
        status(cluster.address)


@pytest.mark.slow
def test_storage_elsewhere_a_bad_prompt_and_a_stop(cluster, folder, tmp_path, monkeypatch):
    """On an S3 server that refuses a write; stopped in the middle, and gone on with."""
    with s3_server(monkeypatch) as (application, url):
        cluster.add_node(num_cpus=1, num_gpus=1)
        application.words, application.times = "checkpoint", 1
        every = objects(tmp_path / "here", folder, ("cat", "dog"))
        bad = objects(tmp_path / "here", "shapes", ("a purple dragon",), field={"resolution": 8})
        stop, found, told = [], [], Told()
        # A worker is refused what it cannot encode as any process is, and goes on with the others.
        farm = Farm([*bad, *every], settings(url, together=1), told, connect(cluster.address))
        thread = threading.Thread(target=lambda: found.append(farm.run(stop)), daemon=True)
        thread.start()
        deadline = time.monotonic() + 120
        while not any("checkpoint" in path for path in application.puts[:]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        stop.append(signal.SIGINT)
        thread.join(timeout=60)
        ended = {o.job.config.prompt: o for o in found[0]}
        assert "knows no object" in ended["a purple dragon"].message
        assert ended["a purple dragon"].status == FAILED
        assert (ended["cat"].status, ended["dog"].status) == (STOPPED, STOPPED)
        assert application.times == 0
        (again,) = [Farm(every, settings(url), told, connect(cluster.address)).run([])]
        assert [o.status for o in again] == [DONE, DONE]
        RemoteFolder(url).fetch(every[0].name, tmp_path / "back", ["field.safetensors"])
        assert_as_alone(every[0], folder, tmp_path / "back" / "field.safetensors", tmp_path / "alone")


def test_nobody_at_the_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for ask in (connect, connect_only, status):
        with pytest.raises(UserError, match="nothing answers there"):
            ask(f"127.0.0.1:{port}")
    for wrong in ("here", "1.2.3.4", "host:port"):
        with pytest.raises(UserError, match="give auto, or HOST:PORT"):
            connect(wrong)


def test_without_ray(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'sjc-fast\[farm\]'"):
        driver.import_ray()
