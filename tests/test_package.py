"""The shape of the house: imports go down only, and the kernels' folder shadows nothing."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sjc_fast

ROOT = Path(sjc_fast.__file__).parent
KERNELS = Path(sjc_fast.__file__).parent.parent / "kernels"

#: DESIGN section 4: a module may import only from its own floor or below.
FLOORS = {
    "cli": 4,
    "export": 4,
    "experiments": 4,
    "recipes": 4,
    "fit": 3,
    "run": 4,
    "journal": 4,
    "reporter": 4,
    "viewer": 4,
    "api": 4,
    "settings": 4,
    "trainer": 3,
    "steps": 3,
    "graphs": 3,
    "schedule": 3,
    "checkpoint": 3,
    "config": 3,
    "paas": 2,
    "losses": 2,
    "field": 1,
    "cameras": 1,
    "photos": 1,
    "directions": 1,
    "rendering": 1,
    "scores": 1,
    "kernels": 0,
    "errors": 0,
    "files": 0,
    "tensors": 0,
    "__version__": 0,
}
BESIDE = {"shapes", "__init__"}  # the embedded model: the rest knows it as a folder
MEASURES = {"cli/evaluate.py", "experiments"}  # but for what holds it against its own scenes


def imports(path):
    """Absolute names of everything of ours that a file imports."""
    package = ["sjc_fast", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *(node.module.split(".") if node.module else [])])
            if name == "sjc_fast":
                yield from (f"sjc_fast.{alias.name}" for alias in node.names)
            elif name.startswith("sjc_fast."):
                yield name
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("sjc_fast."))


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = [p for p in sorted(ROOT.rglob("*.py")) if room(p) not in BESIDE]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    here = FLOORS[room(path)]
    for name in imports(path):
        there = name.split(".")[1]
        if there == "shapes" and {str(path.relative_to(ROOT)), room(path)} & MEASURES:
            continue
        assert there in FLOORS, f"{path.name} imports {name}"
        assert FLOORS[there] <= here, f"{path.name} (floor {here}) imports {name} (floor {FLOORS[there]})"


def test_2d_and_3d_never_import_each_other():
    for path in FILES:
        names = {name.split(".")[1] for name in imports(path)}
        if room(path) == "scores":
            assert not names & {"field", "cameras", "rendering"}
        if room(path) in ("field", "cameras", "rendering"):
            assert "scores" not in names


def test_kernels_import_nothing_of_ours():
    for path in KERNELS.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) sjc_fast", path.read_text(), re.MULTILINE)
        assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level > 1]


def test_kernels_are_ours_and_shadow_nothing():
    program = "import importlib.util as u, sjc_fast.kernels.noise; print(u.find_spec('kernels'))"
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
    assert importlib.util.find_spec("sjc_fast.kernels") is not None


def test_help_needs_no_torch():
    program = "import sys; from sjc_fast.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_every_public_name_loads():
    for name in sjc_fast.__all__:
        assert getattr(sjc_fast, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sjc_fast.nothing  # noqa: B018
