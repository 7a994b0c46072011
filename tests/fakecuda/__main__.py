"""Build the runtime, run the scenarios one after the other, and write their figures."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from .scenarios import SCENARIOS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = [HERE / "runtime.cpp", HERE / "blas.cpp"]
LIMIT = 900  # seconds of a scenario


def main() -> int:
    """0 if every scenario passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help=f"of {','.join(SCENARIOS)}, with commas between")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/fakecuda.json")
    parser.add_argument("--build", type=Path, default=ROOT / ".fakecuda", help="folder of what is compiled")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(SCENARIOS)
    if unknown := set(chosen) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(sorted(unknown))}")
    if options.save and options.only:
        parser.error("--save is for all scenarios")
    library = build(options.build.resolve())
    if options.save:  # the seconds until a step is captured are those of a first run
        shutil.rmtree(library.with_name("triton"), ignore_errors=True)
    found = {name: scenario(name, library) for name in chosen}
    print(json.dumps(found, indent=1))
    failed = [name for name, figures in found.items() if figures is None]
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    elif options.save:
        save(found)
    return int(bool(failed))


def build(folder: Path) -> Path:
    """Compile the runtime if it is older than its sources, with the headers that came with torch."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libfakecuda.so"
    if library.exists() and library.stat().st_mtime > max(source.stat().st_mtime for source in SOURCES):
        return library
    packages = Path(sysconfig.get_path("purelib"))
    # The second has what those of the first include from crt/.
    headers = [packages / "nvidia" / "cu13" / "include", packages / "triton" / "backends" / "nvidia" / "include"]
    if not headers[0].exists():
        sys.exit(f"{sys.executable} has no build of torch for CUDA 13")
    command = [os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra"]
    command += [f"-isystem{path}" for path in headers]
    command += ["-Wl,-soname,libcuda.so.1", "-o", str(library), *map(str, SOURCES)]
    subprocess.run(command, check=True)
    return library


def scenario(name: str, library: Path) -> dict[str, Any] | None:
    """The figures of one, from a process of its own; None, with what it said, where it fails."""
    output = library.with_name(f"{name}.json")
    output.unlink(missing_ok=True)
    environment = os.environ | SCENARIOS[name]
    environment |= {"LD_PRELOAD": str(library), "TRITON_CACHE_DIR": str(library.with_name("triton"))}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-m", "tests.fakecuda.child", name, str(output)]
    began, log = time.monotonic(), output.with_suffix(".log")
    with log.open("w") as said:
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=said, stderr=said, timeout=LIMIT)
            code = done.returncode
        except subprocess.TimeoutExpired:
            said.write(f"not done after {LIMIT} s")
            code = None
    print(f"{name}: {'passed' if code == 0 else 'FAILED'}, {time.monotonic() - began:.0f} s", flush=True)
    if code == 0:
        return json.loads(output.read_text())
    print(log.read_text()[-2000:], flush=True)
    return None


def save(found: dict[str, Any]) -> None:
    """Write the figures, with the versions that they belong to."""
    from importlib.metadata import version

    sys.path.insert(0, str(ROOT))
    from benchmarks.report import save as write

    names = ("torch", "triton", "nvidia-cudnn-cu13", "nvidia-cublas", "diffusers")
    print(write("fakecuda", {"versions": {name: version(name) for name in names}, "scenarios": found}))


if __name__ == "__main__":
    sys.exit(main())
