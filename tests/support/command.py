"""The real command, as a user runs it, and what it does with a wrong input."""

import os
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

from sjc_fast.cli import main

COMMAND = str(Path(sys.executable).parent / "sjc-fast")
#: Options of a run that shows only that it works: of any run, and of one whose mesh and video are looked at.
QUICK = ["--steps", "3", "--field.resolution", "8", "--log.turntable-frames", "2", "--log.turntable-size", "32"]
SMALL = [
    "--field.resolution",
    "12",
    "--log.turntable-frames",
    "5",
    "--log.turntable-size",
    "48",
    "--log.mesh-iso",
    "0.3",
]


def sjc(*arguments, cwd, env=None):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"} | (env or {})
    return subprocess.run(
        [COMMAND, *(a if isinstance(a, bytes) else str(a) for a in arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def refused(done, message, cwd=None):
    """One line that says it, exit code 2, no traceback, and an untouched folder."""
    assert done.returncode == 2, done
    assert done.stderr.startswith("sjc-fast: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    if cwd is not None:
        assert list(cwd.iterdir()) == []


@contextmanager
def process_restored():
    """What the command changes of its process (signals, warnings) is put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with warnings.catch_warnings():
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def done_inside(command, *arguments):
    """The command in the test's own process, on its CPU."""
    with process_restored():
        main([command, *(str(a) for a in arguments), "--device", "cpu"])


class Inside:
    """The command in the test's own process: the same `main`, without importing PyTorch again."""

    def __init__(self, folder, monkeypatch, capfd):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        self.capfd = capfd
        self.restored = process_restored()

    def __enter__(self):
        self.restored.__enter__()
        return self

    def __exit__(self, *error):
        self.restored.__exit__(None, None, None)

    def run(self, arguments):
        """It does what it is asked; what it printed."""
        self.capfd.readouterr()
        main([str(a) for a in arguments])
        return self.capfd.readouterr()

    def refused(self, arguments, message, untouched=None):
        """One line that says it, exit code 2, and an untouched folder."""
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        said = self.capfd.readouterr().err
        assert stopped.value.code == 2, said
        assert said.startswith("sjc-fast: "), said
        assert said.count("\n") == 1, said
        assert message in said
        if untouched is not None:
            assert list(untouched.iterdir()) == []
