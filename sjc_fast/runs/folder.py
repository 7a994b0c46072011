"""The run folder: what every file of a run is called, what it is, and how a run is opened."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, setting

if TYPE_CHECKING:
    from ..scene.field import VoxelField
    from ..training.config import TrainConfig

#: What a person may want to know about the files of a run, in the order of a report.
DESCRIPTIONS = {
    "turntable.mp4": "the object, turning",
    "mesh.ply": "its surface, with colors",
    "mesh.glb": "its surface, with a texture",
    "mesh.obj": "its surface, with a texture",
    "field.safetensors": "the voxel field",
    "preview.png": "four views, color and depth",
    "views.png": "views, color and depth",
    "config.yaml": "every setting",
    "metrics.jsonl": "what was measured, a line every few steps",
    "run.json": "how the run ended, versions, times",
    "checkpoint.safetensors": "to go on from here",
}


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, whether they exist or not."""

    path: Path

    @property
    def config(self) -> Path:
        """Every setting."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """What the run goes on from."""
        return self.path / "checkpoint.safetensors"

    @property
    def field(self) -> Path:
        """The finished field."""
        return self.path / "field.safetensors"

    @property
    def metrics(self) -> Path:
        """Measurements, a line of JSON every few steps."""
        return self.path / "metrics.jsonl"

    @property
    def record(self) -> Path:
        """How the run ended, versions, times."""
        return self.path / "run.json"

    @property
    def preview(self) -> Path:
        """The newest preview."""
        return self.path / "preview.png"

    @property
    def turntable(self) -> Path:
        """The object, turning."""
        return self.path / "turntable.mp4"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    @property
    def views(self) -> Path:
        """Views side by side, as `sjc-fast render` names them."""
        return self.path / "views.png"

    @property
    def held_out(self) -> Path:
        """Photographs that a fit did not see, and its views of them."""
        return self.path / "held-out.png"

    @property
    def timeline(self) -> Path:
        """The folder of small previews."""
        return self.path / "timeline"

    def mesh(self, file_format: str = "ply") -> Path:
        """The surface."""
        return self.path / f"mesh.{file_format}"

    def moment(self, step: int) -> Path:
        """The small preview after a step."""
        return self.timeline / f"{step:07}.jpg"

    def moments(self) -> list[tuple[int, Path]]:
        """Small previews that exist, and the steps after which they were taken, in order."""
        return sorted((int(path.stem), path) for path in self.timeline.glob("*.jpg"))

    def results(self) -> list[Path]:
        """The files that people look for first, as far as they exist."""
        endings = (".mp4", ".ply", ".png")
        return sorted(p for p in self.path.iterdir() if p.suffix in endings or p == self.field)

    def described(self) -> list[tuple[Path, str]]:
        """Files that exist and have a description, in the order of `DESCRIPTIONS`."""
        return [(self.path / name, what) for name, what in DESCRIPTIONS.items() if (self.path / name).is_file()]

    def age(self) -> float:
        """When the newest of field and checkpoint was written, seconds since the epoch; 0 if there is neither."""
        return max((p.stat().st_mtime for p in (self.field, self.checkpoint) if p.exists()), default=0.0)

    def check_free(self) -> None:
        """Refuse a folder that already holds a run, or that cannot be made.

        Raises:
            UserError: see the message.
        """
        if self.config.exists() or self.checkpoint.exists():
            raise UserError(
                f"{self.path} already holds a run: give {setting('resume')} {self.path}, or another {setting('output')}"
            )
        existing = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise UserError(f"cannot write to {self.path}: {existing} is a file, not a folder")

    def make(self) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be made.
        """
        with _as_user_error():
            self.path.mkdir(parents=True, exist_ok=True)

    @classmethod
    def first_free(cls, prompt: str, parent: Path = Path("runs")) -> RunFolder:
        """Make the first folder of runs/<prompt>, runs/<prompt>-2, … that does not exist.

        Raises:
            UserError: it cannot be made.
        """
        words = words_of(prompt)
        with _as_user_error():
            for i in itertools.count(1):
                path = parent / (words if i == 1 else f"{words}-{i}")
                with contextlib.suppress(FileExistsError):  # also when another run takes the name at this moment
                    path.mkdir(parents=True)
                    return cls(path)
        raise AssertionError("unreachable")

    def load(self) -> tuple[TrainConfig, VoxelField]:
        """Configuration and field of the run: the finished field, or that of its last checkpoint.

        Raises:
            UserError: not a run folder, or nothing in it yet.
        """
        from ..scene.field import VoxelField
        from ..training.checkpoint import load_checkpoint
        from ..training.config import load_yaml

        config = load_yaml(self.config)
        config.check()
        if self.field.exists():
            return config, VoxelField.load(self.field)
        tensors = load_checkpoint(self.checkpoint).field
        try:
            return config, VoxelField.from_tensors(tensors, None, config.field.density_shift)
        except ValueError as error:
            raise UserError(f"the checkpoint {self.checkpoint} is damaged: {error}") from None


def words_of(prompt: str) -> str:
    """A prompt as the name of a folder."""
    return "-".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())[:60] or "run"


@contextlib.contextmanager
def _as_user_error():  # noqa: ANN202 - a context manager
    """A folder that cannot be made, in one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot make the run folder {error.filename}: {error.strerror}") from None
