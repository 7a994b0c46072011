"""The kernels as the compiler makes them, ahead of time and with no GPU: registers, spills, vectors, barriers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: `make test-triton` names another Python, which has another Triton, and more architectures.
PYTHON = os.environ.get("SJC_BINARIES_PYTHON", sys.executable)
ARCHS = os.environ.get("SJC_BINARIES_ARCHS", "80 90 100").split()


@pytest.fixture(scope="module")
def rows():
    """Compiled in another process: in this one the kernels may be the interpreter's."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [PYTHON, "-m", "benchmarks.binaries", "--json", *ARCHS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def of(rows, name, arch=90):
    return [r for r in rows if r["name"].startswith(name) and r["arch"] == arch]


@pytest.mark.slow
def test_nothing_spills(rows):
    assert {r["arch"] for r in rows} == {int(arch) for arch in ARCHS}
    assert len(of(rows, "")) == 36
    for row in rows:
        many = row["name"].startswith("march_backward fp32 C=32")  # 32 gradients and 16 sums a lane
        assert row["stack"] <= (96 if many else 0), row


@pytest.mark.slow
def test_registers(rows):
    for row in rows:
        if row["name"].startswith("march") and "C=16" not in row["name"] and "C=32" not in row["name"]:
            backward = 192 if "deterministic" in row["name"] else 128 if row["arch"] == 90 else 136
            most = 96 if "forward" in row["name"] else backward
            assert row["registers"] <= most, row


@pytest.mark.slow
@pytest.mark.parametrize("arch", [90, 100])
def test_the_march_loads_and_reduces_by_vectors_without_barriers(rows, arch):
    scalar = ("C=3 ", "deterministic")
    marches = [r for r in of(rows, "march", arch) if not any(word in r["name"] for word in scalar)]
    assert len(marches) >= 4
    for row in marches:
        groups = 4 if "C=16" in row["name"] else 8 if "C=32" in row["name"] else 1
        assert row["loop_vector_loads"] == 8 * groups, row  # the features of a cell's eight corners
        assert row["loop_loads"] - row["loop_vector_loads"] in (8, 9), row  # their densities, and a brick's
        assert row["loop_barriers"] == 0, row
        assert row["loop_shared"] == 0, row
        if "backward" in row["name"]:
            # Of density and features each: four voxels at a face on every axis, and eight after a jump.
            assert row["loop_vector_reductions"] == (3 * 4 + 8) * groups, row
            assert row["loop_reductions"] == (3 * 4 + 8) * (1 + groups), row


@pytest.mark.slow
def test_three_channels_reduce_by_vectors_too(rows):
    (row,) = of(rows, "march_backward fp32 C=3 ")
    assert row["loop_vector_reductions"] == 8
    assert row["loop_barriers"] == 0


@pytest.mark.slow
def test_ampere_loads_by_vectors(rows):
    """It has no vector reductions; everything else holds."""
    for row in of(rows, "march", 80):
        assert row["loop_vector_loads"] == 8, row
    assert all(r["loop_barriers"] == 0 for r in of(rows, "march_forward", 80))


@pytest.mark.slow
def test_the_optimizer_moves_sixteen_bytes_at_a_time_and_nothing_through_shared_memory(rows):
    for arch in (80, 90, 100):
        row, several = of(rows, "adamax", arch)
        assert row["shared"] == 0
        assert row["vector_moves"] == 8  # parameter, gradient and two moments, read and written
        assert several["vector_moves"] == 4 * 8 - 2  # of four parameters; the texture's gradient is transposed
