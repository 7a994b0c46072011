"""The live viewer in a real browser: the object appears, the controls work, and the server goes with the run."""

import io
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sjc_fast import UserError, ring
from sjc_fast.runs.folder import RunFolder
from sjc_fast.runs.settings import default_config
from sjc_fast.training.config import merge, save_yaml
from sjc_fast.viewer import Viewer, check_port
from sjc_fast.viewer.optics import Pose, viser_pose
from sjc_fast.viewer.server import _Sight
from tests.support.command import COMMAND, QUICK, sjc
from tests.support.fields import WHITE, pixel_model, sphere

GRAY = (0.93, 0.93, 0.93)
TRAIN = ["train", "--prompt", "a red ball", "--viewer", "--steps", "20000", "--log.metrics-every", "1"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def gone(port):
    """Whether nobody listens there (any more)."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def until(condition, seconds=30.0):
    """Wait for something; its last value."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return value


def open_page(browser, port):
    page = browser.new_page(viewport={"width": 900, "height": 560})
    page.goto(f"http://127.0.0.1:{port}")
    page.get_by_text("density threshold").wait_for(timeout=60_000)
    return page


def shown(page):
    """What the page shows left of the controls, [H, W, 3] in [0, 1]."""
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        return np.asarray(picture.convert("RGB"))[150:, :560] / 255.0


def test_cameras_are_the_browsers():
    """Back and forth through viser's axes; the window's height has the vertical field of view."""
    cameras = ring(4, 20, 2.5, 50.0)
    for c2w in cameras.c2w:
        wxyz, position = viser_pose(c2w)
        camera, size = Pose(tuple(wxyz), tuple(position), float(np.radians(40)), 2.0).camera(100)
        assert size == (50, 100)
        torch.testing.assert_close(camera.c2w[0], c2w, atol=1e-6, rtol=0)
        assert float((camera.fov / 2).deg2rad().tan()) == pytest.approx(2 * np.tan(np.radians(20)), rel=1e-5)


@pytest.mark.browser
def test_the_object_and_the_controls(browser):
    port = free_port()
    options = {"cameras": ring(6, 20, 2.5, 45.0), "path": ring(30, 20, 2.5, 45.0).c2w[:, :3, 3], "curves": ("opacity",)}
    viewer = Viewer(sphere(), pixel_model(), background=GRAY, port=port, **options)
    try:
        page = open_page(browser, port)
        blue = lambda: shown(page)[..., 2] - shown(page)[..., 0] > 0.5  # noqa: E731
        assert until(lambda: blue().sum() > 1000)  # from the front: the blue side
        for step in range(5):
            viewer.measured(step, {"opacity": step / 10})
        page.get_by_text("opacity", exact=True).first.wait_for()
        viewer.show(sphere().requires_grad_(False))
        page.get_by_text("cameras and path").click()
        orange = lambda: (abs(shown(page) - np.array([230, 140, 40]) / 255).max(axis=-1) < 0.15).sum()  # noqa: E731
        assert until(lambda: orange() > 50)
        page.get_by_text("cameras and path").click()
        page.get_by_role("button", name="Pause").click()
        assert until(lambda: viewer.controls.paused)
        page.get_by_role("button", name="Save").click()
        assert until(lambda: viewer.controls.save)
        page.close()
        assert until(lambda: not viewer.watched)
    finally:
        viewer.close()
    assert gone(port)


def test_modes_and_threshold_change_the_picture():
    viewer = Viewer(sphere(), pixel_model(), background=WHITE, port=free_port())
    try:
        wxyz, position = viser_pose(ring(1, 0, 2.5, 45.0).c2w[0])
        pose = Pose(tuple(wxyz), tuple(position), 0.8, 1.0)
        rgb = viewer._picture(pose, 64)
        assert rgb.shape == (64, 64, 3)
        ball = rgb[..., 0] < 128
        assert 100 < ball.sum() < 2000
        viewer._mode.value = "opacity"
        assert np.median(viewer._picture(pose, 64)[ball]) > 250
        viewer._mode.value = "depth"
        assert 30 < viewer._picture(pose, 64)[ball].mean() < 250
        viewer._mode.value = "opacity"
        viewer.field.density.data.clamp_(max=5.0)
        viewer._threshold.value = 20.0  # denser than anything in it
        assert viewer._picture(pose, 64).max() < 20
    finally:
        viewer.close()


def test_pictures_are_as_fine_as_there_is_time_for(monkeypatch):
    """While the camera moves: coarser where pictures take long, finer where they do not; at rest, the quality asked."""
    viewer = Viewer(sphere(), pixel_model(), background=WHITE, port=free_port())
    try:
        wxyz, position = viser_pose(ring(1, 0, 2.5, 45.0).c2w[0])
        camera = SimpleNamespace(wxyz=wxyz, position=position, fov=0.8, aspect=1.0)
        shown = SimpleNamespace(set_background_image=lambda *_, **__: None)
        sight = _Sight(SimpleNamespace(camera=camera, scene=shown))
        sides = []

        def moved(seconds):
            def picture(_, side):
                time.sleep(seconds)
                sides.append(side)

            monkeypatch.setattr(viewer, "_picture", picture)
            for _ in range(6):
                sight.moved = time.monotonic()
                viewer.refresh()
                sight.next = 0.0
                viewer._draw(sight)
            return sides[-1]

        coarse = moved(0.2)
        assert coarse < 100
        assert moved(0.001) > 2 * coarse
        sight.moved, sight.next = 0.0, 0.0
        viewer._draw(sight)
        assert sides[-1] == viewer._quality.value == 384
        assert not viewer._draw(sight)  # nothing has changed
    finally:
        viewer.close()


@pytest.mark.browser
def test_a_run_is_watched_paused_and_stopped(browser, tmp_path):
    port = free_port()
    command = [COMMAND, *TRAIN, "--viewer-port", str(port), "--output", "run", *QUICK[2:]]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert until(lambda: not gone(port), 120)
        page = open_page(browser, port)
        position = lambda: int(re.search(r"step (\d+) of 20000", page.content())[1])  # noqa: E731
        assert until(lambda: "of 20000" in page.content())
        assert until(lambda: position() > 3)
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("button", name="Resume").wait_for()
        time.sleep(2)
        stood = position()
        time.sleep(1.5)
        assert position() == stood
        page.get_by_role("button", name="Step").click()
        assert until(lambda: position() == stood + 1)
        page.get_by_role("button", name="Save").click()
        assert until(lambda: (tmp_path / "run" / "checkpoint.safetensors").exists())
        page.get_by_role("button", name="Stop").click()
        output, _ = process.communicate(timeout=60)
        page.close()
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert f"viewer http://127.0.0.1:{port}" in output
    assert "continue with: sjc-fast train --resume run" in output
    assert gone(port)

    resumed = sjc("train", "--resume", "run", "--viewer", "--viewer-port", port, "--steps", "7", cwd=tmp_path)
    assert "was started with --steps 20000, now 7" in resumed.stderr  # and --viewer is free to change


@pytest.mark.slow
def test_a_finished_run_is_viewed(tmp_path):
    folder, port = tmp_path / "run", free_port()
    folder.mkdir()
    save_yaml(
        merge(default_config("shapes"), {"prompt": "a red cube", "output": str(folder)}), RunFolder(folder).config
    )
    sphere().save(RunFolder(folder).field)
    command = [COMMAND, "view", str(folder), "--port", str(port)]
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell's background jobs have Ctrl-C ignored, and pass that on.
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(command, preexec_fn=heard, **options)
    try:
        assert until(lambda: not gone(port), 60)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10).read().decode()
        assert "<html" in page
        taken = sjc("view", folder, "--port", port, cwd=tmp_path)
        assert taken.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port}" in taken.stderr
        assert "give another --port" in taken.stderr
    finally:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert output == f"http://127.0.0.1:{port} (stop with Ctrl-C)\n"
    assert errors == "sjc-fast: stopped\n"
    assert gone(port)


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}.*give another viewer_port"):
            check_port("127.0.0.1", port, "viewer_port")
