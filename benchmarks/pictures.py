"""The README's pictures, from one run: ``python -m benchmarks.pictures RUN`` writes into docs/images.

A GIF by `sjc-fast render`; the mesh of `sjc-fast export`, read back, beside the volume; and, by a browser, the live
viewer and the run's report. It needs Chromium and playwright.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import trimesh
import tyro

from sjc_fast import load_score_model, ring
from sjc_fast.export.pictures import save_picture, take_pictures
from sjc_fast.export.raycast import render_mesh
from sjc_fast.runs.folder import RunFolder
from sjc_fast.viewer import view_run

from .browser import chromium

IMAGES = Path("docs/images")
COMMAND = str(Path(sys.executable).parent / "sjc-fast")
PORT = 8080


@dataclass
class Options:
    """Which run."""

    run: Annotated[Path, tyro.conf.Positional]


def turntable(run: Path) -> None:
    """The object turning, with its depth."""
    options = ["--size", "192", "--supersample", "2", "--frames", "48", "--fps", "12", "--depth", "True"]
    command = [COMMAND, "render", str(run), "--output", str(IMAGES / "turntable.gif"), *options]
    subprocess.run(command, check=True)


def mesh(run: Path) -> None:
    """Four views of the volume, and under them the mesh's, from a GLB file that trimesh has read."""
    config, field = RunFolder(run).load()
    model, background = load_score_model(config.model), config.field.backdrop
    cameras = ring(4, 20, *config.cameras.lens, start=30)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mesh.glb")
        subprocess.run([COMMAND, "export", str(run), "--output", str(path)], check=True)
        surface = trimesh.load(path, force="mesh")
    rows = (
        take_pictures(field, model, cameras, 240, background, rays=2)[0],
        render_mesh(surface, cameras, 240, torch.tensor(background or (1.0, 1.0, 1.0))),
    )
    save_picture(torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2), IMAGES / "mesh.png")


def pages(run: Path, browser: Any) -> None:
    """The live viewer as it looks during training, and the report."""
    config, field = RunFolder(run).load()
    viewer = view_run(config, field, load_score_model(config.model), port=PORT)
    try:
        page = browser.new_page(viewport={"width": 1000, "height": 560})
        page.goto(viewer.address)
        page.get_by_text("cameras and path").click(timeout=60_000)
        page.get_by_role("alert").get_by_role("button").click()  # that graphics are in software here
        time.sleep(4)
        page.screenshot(path=IMAGES / "viewer.png")
        page.close()
    finally:
        viewer.close()
    page = browser.new_page(viewport={"width": 1000, "height": 1100})
    page.goto((run / "report.html").absolute().as_uri())
    time.sleep(1)
    page.screenshot(path=IMAGES / "report.png")


def main(options: Options) -> None:
    """Make them all."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    turntable(options.run)
    mesh(options.run)
    with chromium() as browser:
        pages(options.run, browser)


if __name__ == "__main__":
    main(tyro.cli(Options))
