"""`train --devices`: processes that are started, watched, and ended together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sjc_fast import UserError
from sjc_fast.cli import launch
from sjc_fast.cli.launch import parse_devices

OPTIONS = ["--field.resolution", "8", "--size", "16", "--views", "2", "--log.turntable-frames", "2"]


def start(folder, *more):
    command = [sys.executable, "-m", "sjc_fast", "train", "--prompt", "a red ball", "--devices", "cpu,cpu", *OPTIONS]
    command += ["--output", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(process):
    """The processes of a run that have taken their first steps, by number."""
    text = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True)
    return sorted(map(int, text.stdout.split()))


def wait_for_steps(folder, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_whole_run(tmp_path):
    process = start(tmp_path / "run", "--steps", "12")
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "done in" in said
    assert said.count("run folder") == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    assert (tmp_path / "run" / "field.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1])
def test_a_process_that_is_killed_ends_the_others_with_one_line(tmp_path, killed):
    process = start(tmp_path / "run", "--steps", "100000")
    wait_for_steps(tmp_path / "run", process)
    os.kill(children(process)[killed], signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 1
    assert errors.count("sjc-fast:") == 1
    words = f"sjc-fast: process {killed} of the run was killed (signal 9); go on with --resume from the last checkpoint"
    assert words in errors.splitlines()


@pytest.mark.slow
def test_a_request_to_end_saves_and_can_be_resumed_by_one(tmp_path):
    process = start(tmp_path / "run", "--steps", "100000")
    wait_for_steps(tmp_path / "run", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"continue with: sjc-fast train --resume {tmp_path / 'run'}" in errors
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["steps"] > 0) == ("stopped", True)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_devices_that_cannot_be(monkeypatch):
    assert parse_devices("cpu,cpu") == ["cpu", "cpu"]
    for text in ("0", "cpu", "0,", "", "cpu,auto", "tpu,tpu"):
        with pytest.raises(UserError):
            parse_devices(text)
    monkeypatch.setattr(launch, "pick_device", lambda name: __import__("torch").device(name))
    assert parse_devices("0,2") == ["cuda:0", "cuda:2"]
    with pytest.raises(UserError, match="different devices of one kind"):
        parse_devices("0,0")
    with pytest.raises(UserError, match="different devices of one kind"):
        parse_devices("0,cpu")
