"""The compiled CPU kernels: how they are built and found, what happens without them, threads, and both code paths."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sjc_fast.kernels import native
from sjc_fast.kernels.march import march_forward
from sjc_fast.rendering.checks import assert_matches, make_cameras, make_field, run
from sjc_fast.rendering.fused import march_settings, scene_of
from tests.support.native_march import gradients

PROGRAM = Path(sys.executable).parent / "sjc-fast"


@pytest.fixture
def threads():
    """Sets the number of threads, for one test."""
    usual = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(usual)


@pytest.mark.parametrize("channels", [3, 4])
def test_any_number_of_threads_gives_the_same_bits(threads, channels):
    field, cameras = make_field("random", (19, 18, 17), channels), make_cameras("outside")
    found = []
    for count in (1, 2, 3, 7, 3):
        threads(count)
        found.append(gradients(field, cameras))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_more_samples_than_the_buffer_holds():
    """Tiles go through in chunks."""
    field, cameras = make_field("fog", (48, 50, 52), 3), make_cameras("outside")
    scene = scene_of(field, cameras).detach()
    samples = march_forward(scene, height=80, width=72, **march_settings(field, "cpu", 10.0))[1].stop.sum()
    assert samples > 1 << 20
    # Of 17,280 rays one may end just before or just after a sample, by rounding: 1.2% of opacity, in one pixel.
    flips = {"value": 0.02, "gradient": 5e-4, "features": 0.05}
    assert_matches(run(field, cameras, (80, 72), "cpu"), run(field, cameras, (80, 72), "reference"), **flips)


def start(code, cache, **environment):
    """A Python process with a cache of its own, which compiles without optimization: sooner."""
    variables = os.environ | {"SJC_FAST_CACHE": str(cache), "SJC_FAST_CXXFLAGS": "-O0", **environment}
    command = [sys.executable, "-c", f"from sjc_fast.kernels import native\n{code}"]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_first_builds_at_once_do_not_collide_and_a_cache_is_used_again(tmp_path):
    first = [start("print(native.problem())", tmp_path) for _ in range(2)]
    said = [process.communicate() for process in first]
    assert [out.strip() for out, _ in said] == ["None", "None"], said
    assert sum("compiling" in err for _, err in said) == 1
    again, _ = start("print(native.problem())", tmp_path, CXX=native._compiler()[0]).communicate()
    assert again.strip() == "None"
    assert len(list(tmp_path.glob("*.so"))) == 1
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


@pytest.mark.slow
def test_a_damaged_library_is_built_again(tmp_path):
    damage = "(native.cache_folder() / f'{native._key()}.so').write_text('not a library')"
    out, err = start(f"{damage}\nprint(native.problem())", tmp_path).communicate()
    assert out.strip() == "None"
    assert "compiling" in err
    (library,) = tmp_path.glob("*.so")
    assert library.stat().st_size > 10000


@pytest.mark.slow
def test_sources_that_do_not_compile_are_one_line(tmp_path):
    copy = tmp_path / "csrc"
    shutil.copytree(native.SOURCES, copy)
    (copy / "ops.cpp").write_text("int broken(\n")
    code = f"from pathlib import Path\nnative.SOURCES = Path({str(copy)!r})\nprint(native.problem())"
    out, _ = start(code, tmp_path / "cache").communicate()
    assert out.startswith("the C++ code does not compile: ")
    assert "error:" in out
    assert out.count("\n") == 1


@pytest.mark.slow
def test_without_a_compiler_everything_works_and_one_line_says_so(tmp_path):
    environment = os.environ | {"SJC_FAST_CACHE": str(tmp_path / "cache"), "CXX": "no-such-compiler"}
    options = ["--steps", "2", "--log.turntable-frames", "2", "--log.turntable-size", "32", "--field.resolution", "8"]
    command = [PROGRAM, "train", "--prompt", "a red cube", "--output", tmp_path / "run", "--device", "cpu", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "no C++ compiler (no-such-compiler)" in line]
    assert len(lines) == 1
    assert "the slow reference renderer is used" in lines[0]
    assert "renderer reference" in done.stdout
    assert (tmp_path / "run" / "turntable.mp4").stat().st_size > 0


@pytest.mark.slow
def test_asked_for_and_not_there_is_an_error(tmp_path):
    environment = os.environ | {"SJC_FAST_CACHE": str(tmp_path), "CXX": "no-such-compiler"}
    command = [PROGRAM, "train", "--prompt", "a red cube", "--backend", "cpu", "--output", tmp_path / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("sjc-fast: the cpu renderer cannot run here: there is no C++ compiler")
    assert not (tmp_path / "run").exists()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    """The library is built for this process alone."""
    monkeypatch.setattr(native, "_build", lambda folder: folder / "sjc_fast_cpu.so")
    monkeypatch.setattr(native, "_locked", lambda path: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
    assert native._build_once(tmp_path / "there" / "key.so", tmp_path / "own") == tmp_path / "own" / "sjc_fast_cpu.so"
    assert "read-only: the CPU renderer is compiled anew in every run" in caplog.text


@pytest.mark.parametrize("value", [" ", "'", "no-such-compiler -O2"])
def test_a_compiler_that_cannot_be_is_one_line(tmp_path, value):
    out, err = start("print(native.problem())", tmp_path, CXX=value).communicate()
    assert out.count("\n") == 1
    assert "compile" in out or "quotation" in out
    assert "Traceback" not in err


def test_no_home(tmp_path):
    code = "import pathlib\npathlib.Path.home = lambda: (_ for _ in ()).throw(RuntimeError())\nprint(native.problem())"
    out, _ = start(code, "", XDG_CACHE_HOME="").communicate()
    assert out == "there is no home folder to keep the compiled code in: set SJC_FAST_CACHE\n"


@pytest.mark.slow
def test_the_portable_code_is_the_other_code(tmp_path):
    """What runs on processors without AVX2: the same numbers to rounding, in a process that is told to have none."""
    code = "import torch\nfrom tests.support.native_march import everything\ntorch.save(everything(), 'OUT')"
    found = []
    for name, portable in (("usual", ""), ("portable", "1")):
        out = tmp_path / name
        process = subprocess.run(
            [sys.executable, "-c", code.replace("OUT", str(out))],
            env=os.environ | {"SJC_FAST_PORTABLE": portable, "PYTHONPATH": "."},
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        found.append(torch.load(out, weights_only=True))
    different = 0
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)
        different += not torch.equal(a, b)
    assert different  # AVX2 has fused multiply-adds, so the bits differ somewhere
