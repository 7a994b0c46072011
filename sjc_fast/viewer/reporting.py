"""A run in the browser while it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..export.paths import spiral
from ..runs.reporter import ControlRequest, Reporter
from ..scene.cameras import Cameras
from ..scene.field import VoxelField
from ..scores.protocol import ScoreModel
from ..training.config import CameraConfig, TrainConfig
from ..training.schedule import draw_cameras, stream
from ..training.trainer import Trainer
from .server import Viewer, check_port

OPTION = "viewer_port"
CURVES = ("opacity", "emptiness", "update_rms")


def training_cameras(config: CameraConfig, seed: int, count: int = 48) -> Cameras:
    """Cameras such as a run trains with."""
    return draw_cameras(count, config, stream(seed, "cameras"))[0]


def view_run(config: TrainConfig, field: VoxelField, model: ScoreModel, **options: Any) -> Viewer:
    """A viewer for a run's field, with some training cameras and the spiral that a video may follow.

    Args:
        options: the rest of `Viewer`'s.
    """
    return Viewer(
        field,
        model,
        background=config.field.backdrop,
        cameras=training_cameras(config.cameras, config.seed),
        path=spiral(120, *config.cameras.lens).c2w[:, :3, 3],
        title=config.prompt,
        **options,
    )


class ViewerReporter(Reporter):
    """Shows a run in the browser while it trains, and passes on what the buttons ask for.

    Args:
        host, port: where to listen.
        say: prints a line for people.

    Raises:
        UserError: nobody can listen there.
    """

    def __init__(self, host: str, port: int, say: Callable[[str], None]) -> None:
        check_port(host, port, OPTION)  # before anything is loaded
        self.host, self.port, self._say = host, port, say
        self._viewer: Viewer | None = None

    def start(self, trainer: Trainer, folder: Path) -> None:  # noqa: ARG002
        config = trainer.config
        self._steps, self._prompt = config.steps, config.prompt
        where = {"host": self.host, "port": self.port, "option": OPTION}
        self._viewer = view_run(config, trainer.field, trainer.model, backend=config.backend, curves=CURVES, **where)
        self._say(f"viewer {self._viewer.address}")

    def step(self, position: int) -> None:
        assert self._viewer is not None  # `start` came first
        self._viewer.status = f"**{self._prompt}**: step {position} of {self._steps}"
        self._viewer.refresh()

    def measured(self, position: int, metrics: dict[str, float]) -> None:
        assert self._viewer is not None  # `start` came first
        self._viewer.measured(position, metrics)

    def asked(self) -> ControlRequest:
        assert self._viewer is not None  # `start` came first
        controls = self._viewer.controls
        pause = controls.paused
        if pause and controls.steps > 0:
            controls.steps -= 1
            pause = False
        save, controls.save = controls.save, False
        return ControlRequest(pause=pause, stop=controls.stop, save=save)

    def close(self) -> None:
        if self._viewer is not None:
            self._viewer.close()
