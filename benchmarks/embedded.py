"""The main job on this machine: `sjc-fast train` with the embedded model, timed as a user would, against the truth.

``python -m benchmarks.embedded [--prompts ...]`` runs the real command in a fresh process for every prompt, compares
the field it wrote with the true scene at unseen cameras, and keeps everything in results/embedded.json.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from sjc_fast.export.pictures import save_picture
from sjc_fast.field import VoxelField

from .report import save
from .truth import compare

PROMPTS = (
    "a red mushroom",
    "a blue snowman",
    "a green house",
    "a yellow duck",
    "a purple ring",
    "an orange cone",
    "a red cube",
    "a blue ball",
    "a green tree",
    "a yellow mushroom",
    "a purple house",
    "an orange snowman",
)


@dataclass
class Options:
    """Which prompts, and where the contact sheet goes."""

    prompts: tuple[str, ...] = PROMPTS
    seed: int = 0
    sheet: Path | None = None
    name: str = "embedded"


def measure(prompt: str, seed: int, folder: Path) -> dict:
    """Run the command and judge its result."""
    command = [str(Path(sys.executable).parent / "sjc-fast"), "train", "--prompt", prompt, "--seed", str(seed)]
    started = time.monotonic()
    subprocess.run([*command, "--output", str(folder), "--device", "cpu"], check=True, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    colour, name = prompt.split()[-2:]
    return {
        "prompt": prompt,
        "seconds": seconds,
        **compare(VoxelField.load(folder / "field.safetensors"), name, colour),
    }


def main(options: Options) -> None:
    """Measure every prompt, print a table, write JSON and contact sheet."""
    rows, pictures = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for i, prompt in enumerate(options.prompts):
            row = measure(prompt, options.seed, Path(scratch) / str(i))
            mine, truth = row.pop("views").features / 2 + 0.5, row.pop("truth")
            pictures.append(
                torch.cat([torch.cat(list(mine[[0, 3, 6]]), -1), torch.cat(list(truth[[0, 3, 6]]), -1)], -1)
            )
            rows.append(row)
            print(f"{prompt:20} IoU {row['iou']:.3f}  PSNR {row['psnr']:.2f} dB  {row['seconds']:.0f} s", flush=True)
    mean = {k: sum(r[k] for r in rows) / len(rows) for k in ("iou", "psnr", "seconds")}
    print(f"{'mean':20} IoU {mean['iou']:.3f}  PSNR {mean['psnr']:.2f} dB  {mean['seconds']:.0f} s")
    print(save(options.name, {"seed": options.seed, "mean": mean, "prompts": rows}))
    if options.sheet:
        save_picture(torch.cat(pictures, dim=-2), options.sheet)


if __name__ == "__main__":
    main(tyro.cli(Options))
