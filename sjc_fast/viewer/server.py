"""The viewer's page: pictures of a field from wherever a browser looks, controls and curves."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import socket
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import viser
from torch import Tensor
from viser import uplot

from ..errors import UserError, setting
from ..export.pictures import look, shade_depth, to_bytes
from ..scene.cameras import Cameras
from ..scene.field import VoxelField
from ..scores.protocol import ScoreModel
from .optics import Pose, viser_pose

MODES = ("RGB", "depth", "opacity")
FRAME = 0.1  # seconds that a picture may take while the camera moves
STILL = 0.25  # seconds without a move after which pictures become fine
SMALLEST, LARGEST = 32, 1024  # pixels of the longer side
REST = 4  # times what a picture took, that training then has for itself
REFRESH = 0.2  # seconds between pictures of a field that trains, and
PLOT = 1.0  # between curves
HISTORY = 1000  # points of a curve


@dataclass
class Controls:
    """What people asked for with the buttons; read by the training loop."""

    paused: bool = False
    steps: int = 0  # to take although paused
    stop: bool = False
    save: bool = False


@dataclass
class _Sight:
    """What one browser looks at."""

    client: viser.ClientHandle
    drawn: tuple[Any, ...] = ()  # what the last picture is of: where from, how fine, …
    version: int = -1  # of the field in it
    side: float = 128.0  # pixels while the camera moves
    moved: float = 0.0  # when
    next: float = 0.0  # when one that trains is drawn again


class Viewer:
    """A page on http://host:port that shows a field.

    A thread of its own draws, and only while a browser is connected; who trains the field never waits for it.

    Args:
        field: read as it is, also while somebody trains it.
        model: makes RGB of what is rendered.
        background: plain color, RGB in [0, 1], behind the object; None for the field's own texture.
        cameras: training cameras to show as frustums; None for none.
        path: eye points of a camera path to show, [P, 3]; None for none.
        curves: what to draw curves of, by name; with any, there are pause, step, save and stop buttons too.
        host, port: where to listen.
        option: the setting that gives the port, for messages.

    Raises:
        UserError: the port is taken, or cannot be listened on.
    """

    def __init__(
        self,
        field: VoxelField,
        model: ScoreModel,
        *,
        background: tuple[float, float, float] | None,
        cameras: Cameras | None = None,
        path: Tensor | None = None,
        curves: tuple[str, ...] = (),
        backend: str = "auto",
        title: str = "SJC-Fast",
        host: str = "127.0.0.1",
        port: int = 8080,
        option: str = "port",
    ) -> None:
        check_port(host, port, option)
        self.field, self.model, self.background, self.backend = field, model, background, backend
        self.controls, self.status = Controls(), title
        self._version, self._names = 0, curves
        self._rows: list[tuple[int, dict[str, float]]] = []
        self._plots: dict[str, viser.GuiUplotHandle] = {}
        self._plotted = (0.0, 0)  # when, and up to which step
        self._sights: dict[int, _Sight] = {}
        self._closing = threading.Event()
        logging.getLogger("websockets").setLevel(logging.CRITICAL)  # malformed connections are not worth a log line
        with contextlib.redirect_stdout(io.StringIO()):  # its own banner
            self._server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        if self._server.get_port() != port:  # taken between the check and now; viser went on to the next one
            self._server.stop()
            raise UserError(f"{setting(option)} {port}: it is in use; give another")
        self.address = f"http://{host}:{port}"
        self._build_page()
        self._show_cameras(cameras, path)
        self._server.on_client_connect(self._connected)
        self._server.on_client_disconnect(self._disconnected)
        self._painter = threading.Thread(target=self._paint, name="viewer", daemon=True)
        self._painter.start()

    @property
    def watched(self) -> bool:
        """Whether a browser is connected."""
        return bool(self._sights)

    def refresh(self) -> None:
        """The field has changed: pictures are out of date."""
        self._version += 1

    def show(self, field: VoxelField) -> None:
        """Show another field from now on."""
        self.field = field
        self.refresh()

    def measured(self, step: int, metrics: dict[str, float]) -> None:
        """A point for every curve."""
        self._rows.append((step, metrics))
        if len(self._rows) > HISTORY:  # every other point is enough
            self._rows = self._rows[::2]

    def close(self) -> None:
        """Stop drawing, and give the port back."""
        self._closing.set()
        self._painter.join(timeout=5)
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()

    def _build_page(self) -> None:
        gui = self._server.gui
        gui.configure_theme(control_layout="collapsible", show_logo=False, show_share_button=False)
        self._status = gui.add_markdown(self.status)
        self._mode = gui.add_dropdown("show", MODES)
        self._threshold = gui.add_slider("density threshold", 0.0, 50.0, 0.5, 0.0, hint="what is thinner is left out")
        self._quality = gui.add_slider("quality", 64, LARGEST, 32, 384, hint="pixels of the longer side, at rest")
        if self._names:
            self._add_buttons()

    def _add_buttons(self) -> None:
        gui, controls = self._server.gui, self.controls
        pause, step = gui.add_button("Pause"), gui.add_button("Step", disabled=True)
        save, stop = gui.add_button("Save"), gui.add_button("Stop", color="red")

        @pause.on_click
        def _(_: Any) -> None:
            controls.paused = not controls.paused
            pause.label, step.disabled = ("Resume", False) if controls.paused else ("Pause", True)

        @step.on_click
        def _(_: Any) -> None:
            controls.steps += 1

        @save.on_click
        def _(_: Any) -> None:
            controls.save = True

        @stop.on_click
        def _(_: Any) -> None:
            controls.stop = True

    def _show_cameras(self, cameras: Cameras | None, path: Tensor | None) -> None:
        scene = self._server.scene
        scene.set_up_direction("+y")
        self._server.initial_camera.position = (-2.4, 0.9, 0.9)
        self._server.initial_camera.look_at = (0.0, 0.0, 0.0)
        self._server.initial_camera.fov = math.radians(45)
        handles: list[Any] = []
        if cameras is not None:
            for i, (c2w, fov) in enumerate(zip(cameras.c2w.cpu(), cameras.fov.cpu(), strict=True)):
                wxyz, position = viser_pose(c2w)
                look = {"wxyz": wxyz, "position": position, "scale": 0.1, "thickness": 0.008, "color": (80, 130, 220)}
                handles.append(scene.add_camera_frustum(f"/cameras/{i}", float(torch.deg2rad(fov)), 1.0, **look))
        if path is not None:
            handles.append(
                scene.add_spline_catmull_rom("/path", path.cpu().numpy(), segments=4 * len(path), color=(230, 140, 40))
            )
        if handles:
            shown = self._server.gui.add_checkbox("cameras and path", initial_value=False)

            def toggle(_: Any = None) -> None:
                for handle in handles:
                    handle.visible = shown.value

            toggle()
            shown.on_update(toggle)

    def _connected(self, client: viser.ClientHandle) -> None:
        sight = _Sight(client)
        self._sights[client.client_id] = sight

        @client.camera.on_update
        def _(_: Any) -> None:
            sight.moved = time.monotonic()

    def _disconnected(self, client: viser.ClientHandle) -> None:
        self._sights.pop(client.client_id, None)

    def _paint(self) -> None:
        """Draw what is out of date, coarse while a camera moves and then fine, until the viewer closes."""
        with _beside(self.field.box.device):
            while not self._closing.is_set():
                drawn = False
                draws = [partial(self._draw, sight) for sight in list(self._sights.values())]
                for work in [*draws, self._write] if draws else []:
                    try:
                        drawn |= bool(work())
                    except Exception as error:  # a browser may leave at any moment; drawing must not end with it
                        self.status = f"cannot draw: {' '.join(str(error).split())[:200]}"
                if not drawn:
                    self._closing.wait(0.03)

    def _draw(self, sight: _Sight) -> bool:
        """A picture for one browser if it needs one."""
        now = time.monotonic()
        still = now - sight.moved > STILL
        pose, quality = Pose.of(sight.client.camera), int(self._quality.value)
        side = quality if still else min(int(sight.side), quality)
        wanted = (pose, side, self._mode.value, float(self._threshold.value))
        if wanted == sight.drawn and (self._version == sight.version or now < sight.next):
            return False
        sight.version = self._version
        picture = self._picture(pose, side)
        seconds = time.monotonic() - now
        sight.client.scene.set_background_image(picture, format="jpeg", jpeg_quality=85)
        sight.drawn = wanted
        sight.next = now + max(REFRESH, (1 + REST) * seconds)
        faster = side * (FRAME / max(seconds, 1e-3)) ** 0.5
        sight.side = min(float(LARGEST), max(float(SMALLEST), 0.5 * (sight.side + faster)))
        return True

    def _write(self) -> None:
        """The line of text, and the curves that have grown."""
        if self._status.content != self.status:
            self._status.content = self.status
        rows, (when, upto) = self._rows, self._plotted
        if time.monotonic() - when < PLOT or len(rows) < 2 or rows[-1][0] == upto:
            return
        self._plotted = (time.monotonic(), rows[-1][0])
        x = np.array([float(step) for step, _ in rows])
        for name in self._names:
            data = (x, np.array([metrics[name] for _, metrics in rows]))
            if name in self._plots:
                self._plots[name].data = data
            else:
                series = (uplot.Series(label="step"), uplot.Series(label=name, stroke="#2f6fde", width=2))
                scales = {"x": uplot.Scale(time=False, auto=True), "y": uplot.Scale(auto=True)}
                self._plots[name] = self._server.gui.add_uplot(data, series, title=name, scales=scales, aspect=2.0)

    @torch.no_grad()
    def _picture(self, pose: Pose, side: int) -> np.ndarray:
        """What a browser's camera sees, [H, W, 3] uint8."""
        device = self.field.box.device
        camera, size = pose.camera(max(8, side // self.model.upscale))
        camera, scene = camera.to(device), _without_fog(self.field, float(self._threshold.value))
        out = look(scene, camera, size, self.background, self.backend)
        if self._mode.value == "RGB":
            return to_bytes(self.model.preview(out.features)[0])
        if self._mode.value == "depth":
            return to_bytes(shade_depth(out.depth, out.opacity, camera, scene.box))
        return to_bytes(out.opacity)


def check_port(host: str, port: int, option: str = "port") -> None:
    """Refuse an address that cannot be listened on.

    Raises:
        UserError: what is wrong with it.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"{setting(option)} {port}: it must be between 1 and 65535")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UserError(
            f"the viewer cannot listen on {host}:{port}: {error.strerror}; give another {setting(option)}"
        ) from None


def _beside(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Work on a stream of its own, so that training's kernels do not queue behind the viewer's."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else contextlib.nullcontext()


def _without_fog(scene: VoxelField, threshold: float) -> VoxelField:
    """The field, or a copy whose density is nothing below a threshold."""
    if threshold <= 0:
        return scene
    tensors = {k: v.detach() for k, v in scene.state_dict().items()}
    nothing = scene.raw_density(1e-6)
    tensors["density"] = torch.where(scene.density_grid() < threshold, nothing, tensors["density"])
    return VoxelField.from_tensors(tensors, scene.activation, scene.density_shift).to(scene.box.device)
