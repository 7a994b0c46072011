"""The real command: every wrong input gets one line, exit code 2, and leaves nothing behind."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
import time
from dataclasses import replace

import av
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sjc_fast import UserError
from sjc_fast.cli import _unbox, export, train
from sjc_fast.export import video
from sjc_fast.scores.load import embedded_folder
from tests.support import pipelines
from tests.support.command import COMMAND, QUICK, Inside, done_inside, refused, sjc


@pytest.fixture
def inside(tmp_path, monkeypatch, capfd):
    """The command in this process, in a folder of its own."""
    with Inside(tmp_path, monkeypatch, capfd) as command:
        yield command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "unknown command 'dance'"),
        (["train"], "the prompt is empty"),
        (["train", "--prompt", "  "], "the prompt is empty"),
        (["train", "--prompt", "a red dragon"], "knows no object in 'a red dragon'; it knows: mushroom"),
        (["train", "--prompt", "a red cube", "--stepz", "3"], "Unrecognized options: --stepz"),
        (["train", "--prompt", "a red cube", "--steps", "many"], "--steps"),
        (["train", "--prompt", "a red cube", "--steps", "0"], "--steps 0: it must be between 1 and 10000000"),
        (["train", "--prompt", "a red cube", "--noise-samples", "3"], "comes in pairs"),
        (["train", "--prompt", "a red cube", "--estimator", "sds", "--weighting", "one"], "has a weight of its own"),
        (["train", "--prompt", "a red cube", "--guidance", "nan"], "--guidance nan: it must be a finite number"),
        (
            ["train", "--prompt", "a red cube", "--seed", "300000000"],
            "it must be between 0 and 268435455",
        ),
        (["train", "--prompt", "a red cube", "--cameras.fov", "60", "40"], "give the smaller one first"),
        (["train", "--prompt", "a red cube", "--log.turntable-fps", "0"], "--log.turntable-fps 0"),
        (
            ["train", "--prompt", "a red cube", "--cameras.law", "sphere"],
            "--cameras.sampling sphere: the direction words",
        ),
        (["train", "--prompt", "a red cube", "--model", "./nowhere"], "no model './nowhere'"),
        (["train", "--prompt", "a red cube", "--device", "cuda"], "no usable CUDA device"),
        (["train", "--prompt", "a red cube", "--device", "toaster"], "give auto, cpu, cuda"),
        (["train", "--prompt", "a red cube", "--backend", "vulkan"], "no renderer called 'vulkan'"),
        (["train", "--prompt", "a red cube", "--cameras.law", "moon"], "--cameras.law"),
        (["train", "--prompt", "a red cube", "--output", "/dev/null/run"], "/dev/null is a file"),
        (["train", "--prompt", "a red cube", "--model", ""], "no model ''"),
        (["train", "--prompt", "a red cube", "--attention", "xformers"], "it is not installed: pip install"),
        (["train", "--prompt", "a red cube", "--memory-limit", "4"], "--memory-limit 4: it limits a CUDA device's"),
        (["train", "--prompt", "a red cube", "--lora", "no.safetensors"], "--lora"),
        (["train", "--prompt", "a red cube", "--device", "cpu:0", "--memory-limit", "4"], "it limits a CUDA device's"),
        (["train", "--prompt", "a red cube", "--preset", "best"], "--preset"),
        (["train", "--resume", "."], "not a run folder"),
        (["render", "nowhere"], "not a run folder"),
        (["export", "nowhere"], "not a run folder"),
        (["render", ".", "--output", "x.webm"], "ends in .png"),
        (["render", ".", "--height", "4"], "--height 4: it must be between 8 and 4096"),
        (["render", ".", "--supersample", "0"], "--supersample 0: it must be between 1 and 8"),
        (["view", "."], "not a run folder"),
        (["view", ".", "--port", "70000"], "--port 70000: it must be between 1 and 65535"),
        (["train", "--prompt", "a red cube", "--viewer", "--viewer-port", "0"], "--viewer-port 0: it must be between"),
        (["train", "--prompt", "a red cube", "--viewer", "--viewer-host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_wrong_input(arguments, message, tmp_path, inside):
    """In this process: the same `main`, without the seconds that a new one takes to import PyTorch."""
    inside.refused(arguments, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--prompt", "a red cube", "--steps", "0"], "--steps 0: it must be between 1 and 10000000"),
        (["train", "--prompt", "a red cube", "--output", b"z\xff"], "give a name of readable characters"),
        (["train", "--prompt", b"a red cube \xff"], "one line of readable text"),
    ],
)
def test_wrong_input_in_a_process_of_its_own(arguments, message, tmp_path):
    refused(sjc(*arguments, cwd=tmp_path), message, tmp_path)


@pytest.mark.slow
def test_a_hub_id_that_cannot_be_reached(tmp_path):
    refused(
        sjc("train", "--prompt", "a cube", "--model", "nobody/nothing", cwd=tmp_path), "model nobody/nothing", tmp_path
    )


@pytest.mark.slow
def test_broken_model_folders(tmp_path, monkeypatch, inside):
    good = pipelines.stable_diffusion(tmp_path / "good")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    missing = shutil.copytree(good, tmp_path / "missing")
    shutil.rmtree(missing / "text_encoder")
    inside.refused(["train", "--prompt", "a cube", "--model", missing], "lacks text_encoder", work)
    cut = shutil.copytree(good, tmp_path / "cut")
    weights = cut / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    inside.refused(["train", "--prompt", "a cube", "--model", cut], "cannot load unet", work)
    blind = shutil.copytree(good, tmp_path / "blind")
    weights = blind / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    inside.refused(["train", "--prompt", "a cube", "--model", blind], "cannot load vae", work)
    partial = shutil.copytree(good, tmp_path / "partial")
    weights = partial / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors.pop("conv_in.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    inside.refused(["train", "--prompt", "a cube", "--model", partial], "its weights lack 1 tensors", work)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the embedded model, three steps long."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    done_inside("train", "--prompt", "a red cube", "--output", folder, *QUICK)
    return folder


def snapshot(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_an_existing_run_is_never_overwritten(finished, tmp_path):
    before = snapshot(finished)
    done = sjc("train", "--prompt", "a red cube", "--output", finished, *QUICK, cwd=tmp_path)
    refused(done, "already holds a run", tmp_path)
    assert snapshot(finished) == before


@pytest.mark.slow
def test_resume_with_another_configuration(finished, tmp_path, inside):
    before = snapshot(finished)
    inside.refused(["train", "--resume", finished, "--guidance", "77"], "--guidance 1.0, now 77.0", tmp_path)
    assert snapshot(finished) == before


@pytest.mark.slow
def test_corrupt_files_in_a_run(finished, tmp_path, inside):
    run = shutil.copytree(finished, tmp_path / "run")
    whole = (run / "checkpoint.safetensors").read_bytes()
    (run / "checkpoint.safetensors").write_bytes(whole[: len(whole) // 2])
    inside.refused(["train", "--resume", run], "is damaged")
    assert (run / "checkpoint.safetensors").read_bytes() == whole[: len(whole) // 2]
    (run / "field.safetensors").write_bytes(b"not a field")
    inside.refused(["export", run], "damaged or not a voxel field")
    (run / "config.yaml").write_text("steps: [")
    inside.refused(["render", run], "config.yaml cannot be read")
    (run / "config.yaml").write_text("stepz: 3")
    inside.refused(["render", run], "unknown setting 'stepz'")


def rewrite(path, change, **metadata):
    """The same safetensors file with its tensors or metadata changed."""
    with safe_open(path, "pt") as file:
        kept = file.metadata() | metadata
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["field.density"].fill_(float("nan")), "NaN or infinity"),
        (lambda t: t["field.box"].zero_(), "its box"),
        (lambda t: t.update({"field.density": t["field.density"].half()}), "not float32"),
        (lambda t: t.pop("field.features"), "it lacks features"),
        (lambda t: t.pop("optimizer.0.exp_inf"), "optimizer is incomplete"),
        (lambda t: [t.pop(k) for k in list(t) if k.startswith("optimizer")], "optimizer is incomplete"),
        (lambda t: t.update({"optimizer.x": torch.zeros(1)}), "unknown tensors"),
    ],
)
def test_checkpoints_that_only_look_right(finished, tmp_path, change, message):
    run = shutil.copytree(finished, tmp_path / "run")
    rewrite(run / "checkpoint.safetensors", change)
    with pytest.raises(UserError, match=message):
        train.main(["--resume", str(run)])


@pytest.mark.slow
def test_checkpoint_of_an_impossible_step(finished, tmp_path, inside):
    run = shutil.copytree(finished, tmp_path / "run")
    rewrite(run / "checkpoint.safetensors", lambda t: None, step="99")
    inside.refused(["train", "--resume", run], "made after step 99")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["density"].fill_(float("nan")), "NaN or infinity"),
        (lambda t: t.update(features=torch.zeros(8, 8, 8, 7)), "do not fit each other"),
        (lambda t: t.update(density=torch.zeros(())), "do not fit each other"),
        (lambda t: t["density_scale"].fill_(1e9), "density scale is impossible"),
    ],
)
def test_fields_that_only_look_right(finished, tmp_path, change, message):
    run = shutil.copytree(finished, tmp_path / "run")
    rewrite(run / "field.safetensors", change)
    with pytest.raises(UserError, match=message):
        export.main([str(run), "--iso", "0.1"])


@pytest.mark.parametrize("text", ["prompt: 2020-13-45", "seed: 1" + "0" * 400, "[" * 5000, "", "- 1", "steps: yes"])
def test_damaged_configurations(finished, tmp_path, text):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        train.main(["--resume", str(run)])


def set_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: set_json(m / "sjc_fast.json", pixel_patch=3), "UNet has 48 channels for pixel_patch 3"),
        (lambda m: set_json(m / "sjc_fast.json", pixel_patch="four"), "pixel_patch four"),
        (lambda m: set_json(m / "sjc_fast.json", defaults={"output": "x"}), "defaults may not set output"),
        (lambda m: set_json(m / "sjc_fast.json", defaults={"stepz": 1}), "unknown setting 'stepz'"),
        (lambda m: set_json(m / "sjc_fast.json", vocabulary={"objects": [3]}), "lists of words"),
        (lambda m: set_json(m / "sjc_fast.json", vocabulary={"objects": []}), "names no objects"),
        (lambda m: set_json(m / "sjc_fast.json", vocabulary={"objects": ["cube"], "parts": []}), "parts must be words"),
        (lambda m: set_json(m / "layout" / "config.json", size=8), "its layout has 8 pixels, its UNet 16"),
        (lambda m: set_json(m / "layout" / "config.json", channels=32), "wants more than an image and a text"),
        (lambda m: set_json(m / "layout" / "config.json", width=64), "cannot load layout"),
        (lambda m: shutil.rmtree(m / "layout"), "wants more than an image and a text"),
        (lambda m: (m / "sjc_fast.json").unlink(), "its UNet has 48 channels"),
        (lambda m: set_json(m / "unet" / "config.json", sample_size=[16, 16]), "sample_size"),
        (lambda m: (m / "unet" / "config.json").write_text("[]"), "unet"),
        (lambda m: (m / "scheduler" / "scheduler_config.json").write_text("[]"), "scheduler"),
        (lambda m: (m / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "cannot load unet"),
        (lambda m: set_json(m / "tokenizer" / "tokenizer_config.json", pad_token=None), "tokenizer"),
    ],
)
def test_spoiled_model_folders(tmp_path, monkeypatch, spoil, message):
    monkeypatch.chdir(tmp_path)
    model = shutil.copytree(embedded_folder(), tmp_path / "model")
    spoil(model)
    with pytest.raises(UserError, match=message):
        train.main(["--prompt", "a red cube", "--model", str(model), "--device", "cpu"])
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_stop_the_work(tmp_path):
    command = f'"{COMMAND}" train --prompt "a red cube" --output run {" ".join(QUICK)} | head -0'
    subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, timeout=300)
    assert (tmp_path / "run" / "turntable.mp4").exists()


@pytest.mark.slow
def test_a_stop_during_the_video_leaves_no_part_of_it(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    command = [COMMAND, "render", str(run), "--output", str(tmp_path / "v.mp4"), "--frames", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (tmp_path / "v.tmp.mp4").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "sjc-fast: stopped\n")
    assert list(tmp_path.glob("v*")) == []


@pytest.mark.slow
def test_nothing_to_export_yet(finished, tmp_path, inside):
    inside.refused(["export", finished, "--iso", "1e6"], "lower --iso", tmp_path)


@pytest.mark.slow
def test_export_and_render(finished, tmp_path, inside):
    for kind in ("ply", "glb", "obj"):
        output = tmp_path / f"m.{kind}"
        inside.run(["export", finished, "--iso", "0.1", "--format", kind, "--texture", "256", "--output", output])
        assert output.stat().st_size > 500
    for name in ("v.png", "t.mp4"):
        inside.run(["render", finished, "--output", tmp_path / name, "--size", "32", "--frames", "3"])
        assert (tmp_path / name).stat().st_size > 500
    path = tmp_path / "path.json"
    path.write_text('{"keyframes": [{"azimuth": 0}, {"azimuth": 90, "elevation": 60}]}')
    options = ["--size", "40", "--height", "30", "--supersample", "2", "--depth", "True", "--frames", "3"]
    for name, way in (("s.gif", "spiral"), ("k.mp4", path)):
        output = tmp_path / name
        inside.run(["render", finished, "--output", output, "--path", way, *options])
        with av.open(str(output)) as video:
            assert [(frame.width, frame.height) for frame in video.decode(video=0)] == [(80, 30)] * 3


@pytest.mark.slow
def test_progress_is_shown_on_a_terminal(finished, tmp_path):
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    command = [COMMAND, "render", str(finished), "--output", str(tmp_path / "p.mp4"), "--size", "32", "--frames", "9"]
    subprocess.run(command, stderr=terminal, stdout=subprocess.PIPE, check=True)
    os.write(terminal, b"end")  # so that there is something to read in any case
    said = os.read(reader, 1 << 16)
    os.close(terminal)
    os.close(reader)
    assert re.search(rb"\d+/9 \[.*frame", said)


@pytest.mark.slow
def test_videos_that_cannot_be(finished, tmp_path, inside, monkeypatch):
    options = ["render", finished, "--output", tmp_path / "v.mp4"]
    inside.refused([*options, "--path", "zigzag"], "camera path zigzag: No such file", tmp_path)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    video.find_ffmpeg.cache_clear()
    inside.refused(options, "there is no working ffmpeg: pip install", tmp_path)
    said = inside.run(["train", "--prompt", "a red cube", "--output", "run", *QUICK])
    assert "no turntable: there is no working ffmpeg" in said.err
    assert (tmp_path / "run" / "field.safetensors").exists()
    assert "[!!] ffmpeg: there is no working ffmpeg" in inside.run(["doctor"]).out


@pytest.mark.slow
def test_outputs_that_cannot_be_written(finished, tmp_path, inside):
    """Refused before the work; where even root may not write."""
    for arguments in (["export", finished], ["render", finished], ["gallery", finished]):
        name = {"export": "m.glb", "render": "v.mp4", "gallery": "g.html"}[arguments[0]]
        inside.refused([*arguments, "--output", f"/proc/nothing/{name}"], "cannot write /proc/nothing", tmp_path)


@pytest.mark.slow
def test_help_is_quick_and_complete(tmp_path):
    done = sjc("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("train", "render", "view", "export", "models", "doctor"))
    done = sjc("train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for option in ("--prompt", "--noise-samples", "--guidance", "--resume", "--field.resolution", "--score.sigma.mode"):
        assert option in done.stdout


@pytest.mark.slow
def test_models_and_doctor(tmp_path):
    done = sjc("models", cwd=tmp_path)
    assert "mushroom" in done.stdout
    assert "purple" in done.stdout
    done = sjc("doctor", cwd=tmp_path)
    assert done.returncode == 0
    assert "[--] cuda: none" in done.stdout
    assert "[--] xformers: optional attention kernels; it is not installed" in done.stdout
    assert "reference" in done.stdout


STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_short_names_of_what_experiments_switch():
    short = "--estimator sds --sigma-mode log-uniform --antithetic False --direction-words blended --emptiness-weight 7"
    options = train.read_options(
        ["--prompt", "x", "--model", "shapes", *short.split(), "--depth-weight", "3", "--lr", "1"]
    )
    score, losses = options.score, options.losses
    assert (score.estimator, score.sigma.mode, score.antithetic) == ("sds", "log-uniform", False)
    assert (losses.emptiness_weight, losses.depth_weight, options.optimizer.lr) == (7, 3, 1)
    assert options.cameras.words == "blended"
    one = train.read_options(["--prompt", "x", "--model", "shapes", "--weighting", "one"])
    assert one.score.weighting == "one"


def test_the_papers_settings():
    """The authors', for any model; without the preset, Stable Diffusion has them too, but for antithetic pairs."""
    paper = train.read_options(["--prompt", "x", "--preset", "paper", "--model", "shapes"])
    assert (paper.steps, paper.views, paper.noise_samples, paper.guidance, paper.size) == (10_000, 1, 1, 100.0, None)
    assert (paper.field.resolution, paper.field.density_shift, paper.field.density_init) == (100, -1.0, 0.0)
    assert (paper.field.feature_std, paper.field.background) == (1.0, "texture")
    score, sigma = paper.score, paper.score.sigma
    assert (score.estimator, score.antithetic, score.weighting, score.negative_prompt) == ("eq16", False, "sigma", "")
    assert (sigma.mode, sigma.drop_largest, sigma.drop_smallest, sigma.low, sigma.high) == (
        "random",
        30,
        10,
        None,
        None,
    )
    assert (paper.optimizer.name, paper.optimizer.lr, paper.optimizer.background_lr) == ("adamax", 0.05, 1e-4)
    assert paper.optimizer.decay == "constant"
    losses = paper.losses
    assert (losses.emptiness_weight, losses.emptiness_beta, losses.emptiness_multiplier) == (1e4, 10.0, 20.0)
    assert (losses.emptiness_start, losses.depth_weight, losses.depth_window) == (0.5, 0.0, 50 / 64)
    cameras = paper.cameras
    assert (cameras.sampling, cameras.radius, cameras.fov, cameras.v) == ("sphere", 1.5, (40.0, 70.0), (0.0, 100.0))

    usual = train.read_options(["--prompt", "x", "--model", STABLE_DIFFUSION])
    assert usual.score.antithetic is None
    assert not usual.antithetic  # one noise sample
    assert replace(usual, noise_samples=8).antithetic
    assert not replace(paper, noise_samples=8).antithetic
    same = replace(paper, model=usual.model, preset="model", score=replace(score, antithetic=None))
    assert same == usual
    assert train.read_options(["--prompt", "x", "--model", "shapes"]).guidance == 1.0


def test_unbox():
    box = "╭─ Parsing error ─╮\n│ \x1b[1mWrong\x1b[0m thing │\n│ here │\n│ ──── │\n│ more │\n╰──────╯\n"
    assert _unbox(box) == "Wrong thing here"
