"""Pictures by another thread, on a stream of its own, while steps are captured and replayed."""

from __future__ import annotations

import threading
from typing import Any

import torch

from benchmarks import steps
from sjc_fast.export.pictures import look, shade_depth, to_bytes
from sjc_fast.scene.cameras import ring
from sjc_fast.scores.previews import STABLE_DIFFUSION_SCALE
from sjc_fast.training import graphs
from sjc_fast.training.trainer import Trainer
from sjc_fast.viewer.server import _beside, _without_fog

from .. import runs
from ..device import counts

CAPTURES = 40
REPLAYS = 5  # after each capture


class Painter(threading.Thread):
    """Draws as the viewer does, of changing sizes and with fog left out, until it is stopped.

    Args:
        run: whose field it draws.
        model: makes RGB of what is rendered.
    """

    def __init__(self, run: Trainer, model: Any) -> None:
        super().__init__(daemon=True)
        self.field, self.model = run.field, model
        self.pictures, self.first, self.ended = 0, threading.Event(), threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        """Until `ended` is set or something fails."""
        with _beside(self.field.box.device), torch.no_grad():
            while not self.ended.is_set():
                try:
                    self.paint()
                except Exception as error:
                    self.error = error
                    self.ended.set()
                self.pictures += 1
                self.first.set()

    def paint(self) -> None:
        """A picture of each kind."""
        side = 32 + 8 * (self.pictures % 30)
        camera = ring(1, 20.0, 1.5, 50.0).to(self.field.box.device)
        scene = _without_fog(self.field, float(self.pictures % 3))
        out = look(scene, camera, (side, side), None, "auto")
        for picture in (self.model.preview(out.features)[0], shade_depth(out.depth, out.opacity, camera, scene.box)):
            to_bytes(picture)


def run() -> dict[str, Any]:
    s = runs.session()
    model = steps.stand_in(s)
    model.latents.scale = STABLE_DIFFUSION_SCALE  # its previews need no VAE
    trainer = runs.start(s, model)
    painter = Painter(trainer, model)
    painter.start()
    assert painter.first.wait(60), "no picture in a minute"  # its kernels are compiled
    counts()
    for number in range(CAPTURES):
        trainer._replay, trainer._eager = None, 0
        for _ in range(graphs.WARM_UP + 1 + REPLAYS):
            trainer.step()
        assert trainer._replay is not None, f"capture {number} failed beside pictures"
    painter.ended.set()
    painter.join()
    calls = counts().calls
    assert painter.error is None, f"a picture failed beside a capture: {painter.error}"
    assert calls["launched by another thread"] > 0, "no picture was drawn during a capture"
    assert calls["capture ended"] == CAPTURES, f"{calls['capture ended']} captures of {CAPTURES} succeeded"
    assert calls["launched beside the capture"] == 0, "the step launched something on another stream"
    return {"captures": CAPTURES}
