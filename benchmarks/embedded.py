"""The main job on this machine: `sjc-fast train` with the embedded model, timed as a user would.

``python -m benchmarks.embedded [--prompts ...]`` runs the real command in a fresh process for every prompt, judges the
field it wrote as `sjc-fast evaluate` does, and keeps everything in results/embedded.json.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from sjc_fast.cli.evaluate import PROMPTS, describe
from sjc_fast.scene.field import VoxelField
from sjc_fast.shapes.truth import judge, mean

from .report import save


@dataclass
class Options:
    """Which prompts."""

    prompts: tuple[str, ...] = PROMPTS
    seed: int = 0
    name: str = "embedded"


def measure(prompt: str, seed: int, folder: Path) -> dict:
    """Run the command and judge its result."""
    command = [str(Path(sys.executable).parent / "sjc-fast"), "train", "--prompt", prompt, "--seed", str(seed)]
    started = time.monotonic()
    subprocess.run([*command, "--output", str(folder), "--device", "cpu"], check=True, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    field = VoxelField.load(folder / "field.safetensors")
    return {"prompt": prompt, "seconds": seconds, **judge(field, prompt).figures()}


def main(options: Options) -> None:
    """Measure every prompt, print a table, write JSON."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for i, prompt in enumerate(options.prompts):
            rows.append(measure(prompt, options.seed, Path(scratch) / str(i)))
            print(f"{prompt:20}{describe(rows[-1])}", flush=True)
    print(f"{'mean':20}{describe(mean(rows))}")
    print(save(options.name, {"seed": options.seed, "mean": mean(rows), "prompts": rows}))


if __name__ == "__main__":
    main(tyro.cli(Options))
