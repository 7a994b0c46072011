"""Whole runs as processes: what they write, that others can read it, that they survive being stopped."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import imageio.v3 as iio
import pytest
import torch
import yaml
from plyfile import PlyData
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import sjc_fast
from sjc_fast import UserError, VoxelField
from sjc_fast.runs import run
from sjc_fast.runs.folder import RunFolder
from sjc_fast.runs.reporter import Reporter
from sjc_fast.runs.results import write_results
from sjc_fast.runs.settings import default_config
from sjc_fast.runs.trackers import WandbReporter
from sjc_fast.training.checkpoint import load_checkpoint
from sjc_fast.training.config import load_yaml, merge
from sjc_fast.training.trainer import Trainer
from tests.support import pipelines
from tests.support.command import COMMAND, QUICK, SMALL, Inside, done_inside, sjc


def check_run_folder(folder, frames=5, size=48):
    """Everything is there, and readable by libraries that did not write it."""
    assert not list(folder.glob("*.tmp*"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["steps"] == 6
    with av.open(str(folder / "turntable.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", size, size)
        assert sum(1 for _ in video.decode(stream)) == frames
    mesh = PlyData.read(folder / "mesh.ply")
    assert mesh["vertex"].count > 100
    assert {"x", "y", "z", "red", "green", "blue"} <= {p.name for p in mesh["vertex"].properties}
    picture = iio.imread(folder / "preview.png")
    assert picture.std() > 1
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train/sigma", "train/opacity"} <= set(events.Tags()["scalars"])
    assert "preview" in events.Tags()["images"]
    settings = HParamsPluginData.FromString(events.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    assert settings.session_start_info.hparams["steps"].number_value == 6
    assert VoxelField.load(folder / "field.safetensors").density.shape == (12, 12, 12)


@pytest.mark.slow
def test_embedded_model_without_a_network(tmp_path):
    """The whole command in a process whose sockets do not connect."""
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('the network was touched')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from sjc_fast.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["train", "--prompt", "a red mushroom", "--steps", "6", "--output", "run", "--log.metrics-every", "2"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, *SMALL],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model shapes, renderer ")
    check_run_folder(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("vae", [True, False])
def test_a_stable_diffusion_folder(tmp_path, vae):
    """Latents through the VAE, or pixels; learned background; a real pipeline from disk."""
    model = pipelines.stable_diffusion(tmp_path / "model", vae=vae)
    options = ["--steps", "6", "--noise-samples", "2", "--score.estimator", "auto", "--log.metrics-every", "2"]
    done_inside("train", "--prompt", "a cube", "--model", model, "--output", tmp_path / "run", *options, *SMALL)
    check_run_folder(tmp_path / "run")
    config = load_yaml(tmp_path / "run" / "config.yaml")
    assert config.guidance == 100.0  # the paper's settings, not the embedded model's
    assert config.cameras.radius == 1.5


@pytest.mark.slow
def test_weights_and_biases(tmp_path):
    """Their real package without a network; it keeps what it would send."""
    options = ["--steps", "6", "--log.metrics-every", "2", "--output", "run", "--wandb", "shapes-test", *SMALL]
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = sjc("train", "--prompt", "a red ball", *options, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (records,) = kept.glob("*.wandb")
    sent = records.read_bytes()
    assert all(word in sent for word in (b"shapes-test", b"train/opacity", b"score.sigma.mode", b"a red ball"))
    (picture,) = kept.glob("files/media/images/preview_6_*.png")
    assert iio.imread(picture).std() > 1


def test_weights_and_biases_when_it_is_not_there(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="it is not installed: pip install 'sjc-fast\\[wandb\\]'"):
        WandbReporter("project")


STEPS = 40
OPTIONS = ["--steps", str(STEPS), "--log.checkpoint-every", "4", "--log.preview-every", "100", *SMALL]


def start(options):
    return subprocess.Popen(
        [COMMAND, "train", *options],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def assert_same_end(a, b):
    one, two = (load_checkpoint(f / "checkpoint.safetensors") for f in (a, b))
    assert one.step == two.step == STEPS
    for x, y in ((one.field, two.field), (one.optimizer, two.optimizer)):
        assert x.keys() == y.keys()
        assert all(torch.equal(x[k], y[k]) for k in x)


@pytest.fixture(params=["embedded", "latent"])
def job(request, tmp_path):
    """A prompt for the embedded model; or a latent model, two views and Adam."""
    if request.param == "embedded":
        return ["--prompt", "a blue house", *OPTIONS]
    model = pipelines.stable_diffusion(tmp_path / "model")
    return ["--prompt", "a cube", "--model", str(model), "--views", "2", "--optimizer.name", "adam", *OPTIONS]


@pytest.mark.slow
def test_a_killed_and_interrupted_run_ends_bit_for_bit_like_a_whole_one(job, tmp_path):
    """Killed after its first checkpoint, resumed, stopped by Ctrl-C after another, resumed again."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    done = sjc("train", *job, "--output", whole, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    folder = RunFolder(stopped)
    process = start([*job, "--output", str(stopped)])
    wait_for(folder.checkpoint.exists, process)
    process.kill()
    process.communicate()
    reached = load_checkpoint(folder.checkpoint).step
    assert reached < STEPS
    assert not folder.turntable.exists()

    process = start(["--resume", str(stopped)])
    wait_for(lambda: load_checkpoint(folder.checkpoint).step > reached, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"--resume {stopped}" in said
    assert "Traceback" not in said
    assert reached < load_checkpoint(folder.checkpoint).step < STEPS
    assert not folder.turntable.exists()

    done = sjc("train", "--resume", stopped, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_end(stopped, whole)
    assert folder.turntable.exists()


@pytest.mark.slow
def test_a_run_stopped_before_its_first_checkpoint_starts_again(tmp_path, monkeypatch, capfd):
    options = ["--prompt", "a red cube", *QUICK]
    whole, early = tmp_path / "whole", tmp_path / "early"
    with Inside(tmp_path, monkeypatch, capfd) as inside:
        inside.run(["train", *options, "--output", whole])
        early.mkdir()
        (early / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
        inside.run(["train", "--resume", early])
    one, two = (VoxelField.load(f / "field.safetensors") for f in (whole, early))
    assert torch.equal(one.density, two.density)


def test_nan_stops_the_run_at_the_last_good_checkpoint(tmp_path, monkeypatch):
    class Poison(Reporter):
        def start(self, trainer, folder):
            self.trainer = trainer

        def step(self, position):
            if position == 5:
                self.trainer.field.density.data[0, 0, 0] = float("nan")

    config = default_config("shapes")
    config = merge(config, {"prompt": "a red cube", "steps": 9, "output": str(tmp_path / "run")})
    config = merge(config, {"field": {"resolution": 8}, "log": {"checkpoint_every": 2, "metrics_every": 1}})
    with pytest.raises(UserError, match=r"NaN or infinity at step 6; the last good checkpoint is .*checkpoint"):
        run.run(config, Poison())
    kept = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert kept.step == 4
    assert all(bool(v.isfinite().all()) for v in kept.field.values())


@pytest.mark.slow
def test_no_space_left(tmp_path):
    """A full disk in the middle of a run: one line, and the folder keeps no half-written file."""
    limit = ["bash", "-c", f'ulimit -f 8; exec "{COMMAND}" train "$@"', "-"]
    options = ["--prompt", "a blue house", *OPTIONS, "--output", str(tmp_path / "run")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*limit, *options], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done
    assert done.stderr.strip().splitlines()[-1].startswith("sjc-fast: cannot write the checkpoint"), done.stderr
    assert not list((tmp_path / "run").glob("*.tmp*"))


def test_a_mesh_that_cannot_be_written_ends_the_run(tmp_path):
    """Not so an object without a surface, which is noted."""
    config = merge(default_config("shapes"), {"prompt": "a red mug", "field": {"resolution": 12}})
    trainer, folder = Trainer(config, sjc_fast.load_score_model("shapes", device="cpu")), RunFolder(tmp_path)
    folder.mesh().mkdir()
    (folder.mesh() / "in the way").touch()
    with pytest.raises(UserError, match="cannot write the mesh"):
        write_results(trainer, folder, Reporter())


def test_free_folder_names(tmp_path):
    names = [RunFolder.first_free(p, tmp_path).path.name for p in ("A red, mushroom!", "a red mushroom", "../..")]
    assert names == ["a-red-mushroom", "a-red-mushroom-2", "run"]


def test_python_api(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"field": {"resolution": 8}, "log": {"turntable_frames": 2, "turntable_size": 32}}
    result = sjc_fast.generate("a green tree", steps=2, progress=False, **small)
    assert result.folder == Path("runs/a-green-tree")
    assert (result.folder / "turntable.mp4").exists()
    model = sjc_fast.load_score_model("shapes", device="cpu")
    field = sjc_fast.VoxelField(resolution=8, channels=model.channels)
    out = sjc_fast.render(field, sjc_fast.ring(2, 20, 2.5, 45.0), size=64, backend="auto")
    score = sjc_fast.paas_score(model, out.features, 1.0, "a green tree", noise_samples=2, guidance=3.0)
    out.features.backward(-score)
    assert float(field.density.grad.abs().sum()) > 0
    with pytest.raises(UserError, match="unknown setting 'stepps'"):
        sjc_fast.generate("a green tree", stepps=2)


@pytest.mark.slow
def test_the_readmes_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (Path(sjc_fast.__file__).parent.parent / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    short = 'generate("a red mushroom", steps=2, log={"turntable_frames": 2, "turntable_size": 32})'
    assert 'generate("a red mushroom")' in code
    names = {}
    exec(code.replace('generate("a red mushroom")', short), names)
    assert float(names["field"].features.grad.abs().sum()) > 0
