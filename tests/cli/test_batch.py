"""`sjc-fast batch` and `farm` as people call them: what they print, how they end, and what they refuse."""

import json

import pytest

from sjc_fast.cli import batch
from sjc_fast.cli.batch import list_jobs, parse_shard, parse_together, read_options, take_values
from tests.support.command import Inside, sjc

SMALL = ["--steps", "3", "--field.resolution", "8", "--log.turntable-frames", "2", "--log.turntable-size", "32"]


@pytest.fixture
def inside(tmp_path, monkeypatch, capfd):
    with Inside(tmp_path, monkeypatch, capfd) as found:
        yield found


@pytest.mark.slow
def test_a_list_with_a_failure_and_again(tmp_path):
    """As a process: exit code 1, the others are there, and the second call says so."""
    (tmp_path / "list.csv").write_text("prompt,seed,lr\na red ball,0,\na purple dragon,,\na blue cube,2,0.1\n")
    done = sjc("batch", "list.csv", "--output", "out", "--together", "2", *SMALL, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("3 objects in ")
    assert lines[-1].endswith("1 failed")
    assert "2 done" in lines[-1]
    assert done.stderr.splitlines()[-1].startswith("sjc-fast: a-purple-dragon-s0: this model knows no object")
    folders = sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir())
    assert folders[1] == "a-red-ball-s0"
    assert folders[0].startswith("a-blue-cube-s2-")
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert 'src="a-red-ball-s0/turntable.mp4"' in page
    assert "data:video" not in page  # it stays small, however many there are
    assert json.loads((tmp_path / "out" / folders[1] / "run.json").read_text())["status"] == "finished"
    again = sjc("batch", "list.csv", "--output", "out", "--together", "2", *SMALL, cwd=tmp_path)
    assert again.returncode == 1
    assert "0 done" in again.stdout.splitlines()[-1]
    assert "2 done before, 1 failed" in again.stdout.splitlines()[-1]


def test_what_the_options_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("a red ball\n")
    line = "--seeds 0..1 --sweep lr=0.1,0.2 --steps 9 --model shapes --output x --device cpu"
    options, prompts, output = read_options(["list.txt", "--prompt", "a cube", *line.split()])
    assert (prompts, output) == (["a cube"], "x")
    jobs = list_jobs(options, prompts, tmp_path)
    assert len(jobs) == 8
    assert {(j.config.prompt, j.config.seed, j.config.optimizer.lr) for j in jobs} == {
        (p, s, lr) for p in ("a red ball", "a cube") for s in (0, 1) for lr in (0.1, 0.2)
    }
    assert {j.config.steps for j in jobs} == {9}
    assert {j.config.cameras.sampling for j in jobs} == {"directions"}  # the model's own settings are the base
    (tmp_path / "list.jsonl").write_text('{"recipe": "duck", "seed": 1}\n')
    options, prompts, _ = read_options(["list.jsonl", "--model", "shapes", "--noise-samples", "4", "--device", "cpu"])
    (job,) = list_jobs(options, prompts, tmp_path)
    assert (job.config.prompt, job.config.losses.depth_weight) == ("a DSLR photo of a yellow duck", 10)
    assert (job.config.noise_samples, job.config.preset, job.config.seed) == (4, "paper", 1)


def test_wrong_inputs(inside, tmp_path):
    (tmp_path / "list.txt").write_text("a red ball\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "file").write_text("")
    device = ["--device", "cpu", "--model", "shapes"]
    for arguments, message in (
        ([], "name a file with a prompt a line"),
        (["none.txt"], "No such file"),
        (["empty.txt"], "names no prompt"),
        (["list.txt", "--together", "0"], "--together 0: give auto"),
        (["list.txt", "--together", "many"], "--together many: give auto"),
        (["list.txt", "--seeds", "a..b"], "--seeds 'a..b'"),
        (["list.txt", "--sweep", "speed=1"], "speed: no such setting"),
        (["list.txt", "--steps", "0"], "--steps 0"),
        (["list.txt", "--seed", "3"], "--seed is an option of train: give --seeds"),
        (["list.txt", "--resume", "x"], "--resume is an option of train"),
        (["list.txt", "--shard", "2/2"], "--shard 2/2: give I/N"),
        (["list.txt", "--shard", "0/2", "--farm", "auto"], "give one"),
        (["list.txt", "--output", "file/x"], "cannot write"),
        (["list.txt", "--output", "abc://x"], "abc"),
        (["list.txt", "--farm", "here"], "--farm here: give auto, or HOST:PORT"),
        (["list.txt", "--farm", "auto", "--gpus-per-worker", "-1"], "--gpus-per-worker -1"),
        (["--prompt"], "--prompt wants a value"),
        (["--prompt", "x", "--nonsense"], "nonsense"),
    ):
        inside.refused(["batch", *arguments, *(device if "--prompt" not in arguments[-1:] else [])], message)
        assert not (tmp_path / "runs" / "batch" / "a-red-ball-s0").exists()
    inside.refused(["farm"], "")
    inside.refused(["farm", "status", "127.0.0.1:1"], "nothing answers there")


def test_the_small_parsers():
    assert parse_together("auto") is None
    assert parse_together("16") == 16
    assert parse_shard("3/8") == (3, 8)
    assert take_values(["--prompt", "a", "-x", "--prompt=b"], "prompt") == (["a", "b"], ["-x"])
    assert batch.BatchOptions().together == "auto"
