"""The benchmarks run: nothing here looks at a time."""

import importlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

import benchmarks
from benchmarks import farm_simulation, gpu, gpu_kernels, pipelines, verdict, versus_sjc
from benchmarks.steps import unet_flops
from benchmarks.work import count_work, cpu_floors, floors
from sjc_fast.kernels.march import march_forward
from sjc_fast.rendering.checks import DEVICE, make_cameras, make_field, relative_rmse
from sjc_fast.rendering.fused import scene_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__)))
def test_every_benchmark_can_be_imported(name):
    """Some are only ever run by hand."""
    assert importlib.import_module(f"benchmarks.{name}").__doc__


@pytest.mark.slow
def test_the_gpu_script_at_toy_sizes(tmp_path):
    output = tmp_path / "gpu.json"
    assert gpu.main(["--small", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert result["small"]
    assert result["failed"] == []
    assert set(gpu.SECTIONS) <= set(result)
    assert all(row["passes"] for row in result["numerics"] + result["operations"])
    assert result["determinism"]["passes"]
    assert {"forward_warm_us", "backward_warm_us", "step_warm_us", "step_floor_us"} <= set(result["march"][0])
    assert result["verdict"] == {"note": "toy sizes: nothing to judge"}
    assert result["works"]["march is the reference's"]
    assert result["works"]["Stable Diffusion's step is captured and replayed"]
    assert result["works"]["the network's fused call answers as diffusers' own"]
    assert result["works"]["a captured step does what the eager one does"] is None  # there is no device
    modes = {row["mode"]: row for row in result["steps"]}
    assert set(modes) == {"plain", "graph", "compiled"}
    assert {"unet", "rendering", "optimizer"} == set(modes["graph"]["parts_seconds"])
    assert result["step_checks"]["passes"]
    assert result["step_checks"]["steps"] == 5
    assert 0 < result["end_to_end"]["cold"]["loaded"] < result["end_to_end"]["cold"]["written"]
    assert {"rendering", "optimizer", "convolutions", "matrix products", "attention"} <= set(result["trace"]["by_kind"])
    assert iio.imread(output.with_suffix(".png")).std() > 1


def test_one_call_can_run_some_sections_only(tmp_path):
    assert gpu.main(["--small", "--only", "operations", "--output", str(tmp_path / "gpu.json")]) == 0
    assert set(json.loads((tmp_path / "gpu.json").read_text())) >= {"operations", "targets"}
    with pytest.raises(SystemExit):
        gpu.main(["--only", "nonsense"])


#: Runs a module of a checkout that nothing was installed from, where only PyTorch, Triton and NumPy are to be had.
BARE = """
import runpy, sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in ("accelerate diffusers imageio matplotlib safetensors scipy skimage tokenizers transformers trimesh "
                   "tyro viser yaml").split():
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
sys.meta_path = [Absent(), *(f for f in sys.meta_path if "editable" not in repr(f).lower())]
sys.path[0] = "."
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_the_gpu_script_in_a_bare_checkout(tmp_path):
    for folder in ("sjc_fast", "kernels", "benchmarks"):
        ignore = shutil.ignore_patterns("__pycache__", "weights", "results", "kernels" if folder == "sjc_fast" else "")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    command = [sys.executable, "-c", BARE, "--small", "--only", "numerics,replays", "--output", "gpu.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert all(row["passes"] for row in result["numerics"])
    assert result["replays"] == {"note": "lacks tyro"}
    assert result["works"]["Stable Diffusion's step is captured and replayed"] is None


def test_the_network_is_stable_diffusions():
    with torch.device("meta"):
        count = sum(p.numel() for p in pipelines.unet("1.5").parameters())
    assert count == 859_520_964
    assert round(unet_flops("1.5") / 1e12, 3) == 0.803  # as counted for the published network


def named(name, function, monkeypatch):
    """A section of the script's own kernels' file."""
    monkeypatch.setattr(gpu_kernels, name, function, raising=False)
    return f"gpu_kernels.{name}"


@pytest.mark.slow
def test_a_section_that_fails_is_told_and_the_rest_goes_on(tmp_path, monkeypatch):
    def broken(_session):
        raise RuntimeError("no such thing")

    sections = {"broken": named("broken", broken, monkeypatch), "skipping": "gpu_kernels.skipping"}
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    assert gpu.main(["--small", "--output", str(tmp_path / "gpu.json")]) == 1
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["failed"] == ["broken"]
    assert "no such thing" in result["broken"]["error"]
    assert len(result["skipping"]) == 1


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_run_that_is_ended_keeps_what_it_found(tmp_path, monkeypatch, last):
    """In any section, and what that one had found so far."""

    def section(k):
        def run(session):
            session.result[f"s{k}"] = [{"part": 1}]
            if k == last:
                os.kill(os.getpid(), signal.SIGTERM)
            return [{"part": 1}, {"part": 2}]

        return named(f"s{k}", run, monkeypatch)

    monkeypatch.setattr(gpu, "SECTIONS", {f"s{k}": section(k) for k in range(3)})
    usual = signal.getsignal(signal.SIGTERM)
    assert gpu.main(["--small", "--output", str(tmp_path / "gpu.json")]) == 143
    assert signal.getsignal(signal.SIGTERM) == usual
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert [len(result.get(f"s{k}", [])) for k in range(3)] == [2] * last + [1] + [0] * (2 - last)
    assert result["ended"]
    assert result["verdict"]


def test_a_section_leaves_time_to_those_after_it(tmp_path, monkeypatch):
    left = []
    function = lambda session: left.append(session.left) or {}  # noqa: E731
    monkeypatch.setattr(gpu, "SECTIONS", {"a": named("a", function, monkeypatch)})
    for budget in ("300", "-1"):
        gpu.main(["--small", "--budget", budget, "--output", str(tmp_path / "gpu.json")])
    assert len(left) == 1
    assert 140 < left[0] <= 150
    assert json.loads((tmp_path / "gpu.json").read_text())["a"] == {"note": "out of time: not measured"}


def test_the_verdict_reads_what_a_gpu_run_writes():
    row = {"size": 64, "grid": 100, "scene": "fog", "precision": "fp32", "views": 1}
    row |= {"forward_warm_us": 40.0, "backward_warm_us": 60.0, "forward_floor_us": 20.0, "backward_floor_us": 30.0}
    reference = {"views": 1, "scene": "fog", "reference_seconds": [3e-3], "triton_seconds": [1e-3]}
    reference |= {"triton_peak_bytes": 1, "reference_peak_bytes": 40}
    result = {"small": False, "march": [row, row | {"views": 8}], "reference": [reference]}
    result |= {
        "rates": {"100": {"copy_bytes": 4e12}},
        "operations": [{"op": "adamax", "bytes": 3e6, "seconds": [1e-6]}],
    }
    parts = {"parts_seconds": {"unet": [7e-3], "rendering": [2e-4], "optimizer": [1e-4]}, "reserved_bytes": 3e9}
    step = {"samples": 1, "mode": "graph", "attention": "sdpa", "step_seconds": [7.5e-3], **parts}
    plain = {"samples": 1, "mode": "plain", "attention": "sdpa", "step_seconds": [60e-3]}
    result["steps"] = [plain, step, step | {"samples": 8, "unet_share_of_matmul_peak": 0.6}]
    result["replays"] = {"passes": True, "step_ms": 7.6, "reserved_gb": 3.1}
    judged = verdict.verdict(result)
    works = verdict.quick_verdict(result)
    assert works["Stable Diffusion's step is captured and replayed"] is True
    assert works["march is the reference's"] is None
    assert works["step_ms"] == 7.6
    assert judged["step_ms"] == {"graph sdpa": 7.5}
    assert judged["ten_thousand_steps_s"] == {"graph sdpa": 75.0}
    assert judged["step_times_faster_than_plain"] == {"graph sdpa": 8.0}
    assert judged["unet_share_of_matmul_peak_n8"] == {"graph sdpa": 0.6}
    assert abs(judged["rendering_and_optimizer_share"]["graph sdpa"] - 0.04) < 1e-9
    assert judged["paper_setting_us"] == {"fog": 100.0}
    assert judged["eight_views_fog_over_floor"] == {"100 fp32": 2.0}
    assert abs(judged["paper_setting_times_faster"]["fog"] - 30) < 1e-9
    assert judged["paper_setting_memory_share"] == {"fog": 1 / 40}
    assert judged["optimizer_share_of_copy"] == {"adamax": 0.75}
    assert set(judged) >= set(verdict.TARGETS)


def test_the_work_that_is_counted_is_the_work_that_is_done():
    field, cameras = make_field("solid").to(DEVICE), make_cameras("outside").to(DEVICE)
    work = count_work(field, cameras, 7)
    stop = march_forward(scene_of(field, cameras), height=7, width=7, step=field.step_size())[1].stop
    assert work["samples"] == int(stop.sum())
    assert work["samples"] >= work["cells"] > work["bright_cells"] > 0
    assert work["samples"] >= work["bright"] >= work["bright_cells"]
    rates = dict.fromkeys(
        ("gather_scalar_cells", "gather_vector_cells", "reduce_scalar_cells", "reduce_vector_cells"), 1e3
    ) | {"copy_bytes": 1e9}
    least = floors(work, field, rates, half=False)
    assert least["step"] > least["forward"] + least["backward"]
    assert least["backward"] > least["forward"] >= work["samples"] / 1e3


def test_the_floors_of_the_cpu_march():
    """Longer with more work, and whichever of arithmetic and memory takes longer."""
    field = make_field("solid")
    work = {"samples": 1000, "bright": 100, "cells": 600, "bright_cells": 60}
    slow_memory = cpu_floors(work, field, {"matmul_flops": 1e15, "copy_bytes": 1e6})
    assert slow_memory["forward"]["seconds"] == 4 * 5 * 210 / 1e6  # five numbers a voxel
    assert slow_memory["both"]["seconds"] == pytest.approx(5 * slow_memory["forward"]["seconds"])
    slow_arithmetic = cpu_floors(work, field, {"matmul_flops": 1e6, "copy_bytes": 1e15})
    assert slow_arithmetic["forward"]["seconds"] == (1000 * 139 + 100 * 90) / 1e6
    assert slow_arithmetic["both"]["seconds"] > 2 * slow_arithmetic["forward"]["seconds"]


@pytest.mark.slow
def test_a_comparison_needs_the_authors_code(tmp_path):
    command = [sys.executable, "-m", "benchmarks.versus_sjc", "--sjc-repo", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"versus_sjc: {tmp_path} is not a checkout of pals-ttic/sjc: it has no voxnerf/vox.py\n"


def test_our_side_of_the_comparison():
    field, cameras = make_field("fog", (20, 20, 20)), make_cameras("outside")[:1]
    up = versus_sjc.upstream(8)
    found = []
    for backend in ("cpu", "reference"):
        ours = versus_sjc.Ours(field, cameras, 8, backend)
        assert versus_sjc.seconds(lambda ours=ours: versus_sjc.both_ways(ours, up), torch.device("cpu")) > 0
        found.append({name: gradient.clone() for name, gradient in ours.gradients().items()})
    for name, truth in found[1].items():
        assert relative_rmse(found[0][name], truth) < 1e-4, name
    options = versus_sjc.Options(Path(), size=8, resolution=30, repeats=2)
    assert {way: len(taken) for way, taken in versus_sjc.cached("solid", options).items()} == {"forward": 2, "both": 2}


@pytest.mark.slow
def test_every_pytest_benchmark_runs():
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-disable", "-p", "no:cacheprovider"]
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "SJC_FORBID_SKIPS")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert torch.cuda.is_available() or "needs a CUDA device" in done.stdout


def test_a_farm_on_paper():
    """Without failures it makes what its GPUs can; failures and slow storage cost what they must; seeds repeat."""
    calm = farm_simulation.Assumed(gpus=64, start=0.0, failures_an_hour_a_thousand_nodes=0.0, hours=4.0)
    found = farm_simulation.simulate(calm)
    assert found["lost_share"] == 0
    assert 0.97 < found["of_the_gpus"] <= 1.0
    assert abs(found["objects_an_hour"] - 64 * 90) < 64 * 3
    rough = replace(calm, failures_an_hour_a_thousand_nodes=2000.0)
    again = [farm_simulation.simulate(rough, seed=1) for _ in range(2)]
    assert again[0] == again[1]
    assert 4 < again[0]["failures"] < 4 * 8 * 2 * 2
    assert again[0]["objects_an_hour"] < found["objects_an_hour"]
    assert 0 < again[0]["lost_gpu_seconds_an_hour"] * 4 <= again[0]["failures"] * 8 * rough.checkpoint_every
    slow = farm_simulation.simulate(replace(calm, storage_bytes_per_second=5e7))
    assert slow["storage_busy"] > 1
    assert slow["objects_an_hour"] < found["objects_an_hour"] / slow["storage_busy"] * 1.1
