"""The shape of the house: imports go down the floors that docs/architecture.md draws, and nothing is shadowed."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sjc_fast

ROOT = Path(sjc_fast.__file__).parent
KERNELS = ROOT.parent / "kernels"
DRAWING = (ROOT.parent / "docs" / "architecture.md").read_text().split("```text\n")[1].split("```")[0]
#: Rooms by name, and how high they lie.
FLOORS = {
    room.strip("/"): height for height, line in enumerate(reversed(DRAWING.splitlines())) for room in line.split()
}
FILES = [
    p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py" and "kernels" not in p.relative_to(ROOT).parts
]


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Absolute names of everything of ours that a file imports, at its top or inside functions."""
    package = module_of(path).split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *(node.module.split(".") if node.module else [])])
            if name.split(".")[0] == "sjc_fast":
                yield name
                yield from (f"{name}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("sjc_fast."))


def room(module):
    """None for the package itself, whose version anybody may read."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__version__" else None


def test_the_drawing_has_every_room_and_no_other():
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")} | {"kernels"}
    assert set(FLOORS) == folders | {p.stem for p in ROOT.glob("*.py") if p.stem != "__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    here = room(module_of(path))
    for name in imports(path):
        there = room(name)
        assert there in (None, here) or FLOORS[there] < FLOORS[here], f"{path.name} imports {name}"


def test_no_files_import_each_other_in_a_circle():
    modules = {module_of(p): p for p in FILES}
    needs = {m: {n for n in imports(p) if n in modules and n != m} for m, p in modules.items()}
    done, way = set(), []

    def visit(module):
        assert module not in way, " imports ".join([*way, module])
        if module not in done:
            way.append(module)
            for other in sorted(needs[module]):
                # A package's first file may gather what lies in it.
                if other != module.rpartition(".")[0]:
                    visit(other)
            done.add(way.pop())

    for module in modules:
        visit(module)


def test_2d_and_3d_never_import_each_other():
    assert FLOORS["scores"] == FLOORS["scene"]
    for path in FILES:
        if room(module_of(path)) == "rendering":
            assert not {room(n) for n in imports(path)} & {"scores"}, path


def test_kernels_import_nothing_of_ours():
    for path in KERNELS.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) sjc_fast", path.read_text(), re.MULTILINE)
        depth = len(path.relative_to(KERNELS).parts)
        above = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level > depth]
        assert not above, path


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
