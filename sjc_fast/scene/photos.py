"""Posed photographs: `transforms.json` and RGBA pictures, in the convention of Blender's NeRF data sets."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import torch
from torch import Tensor

from ..errors import UserError
from .cameras import Cameras

#: Blender's z points up, ours is y: (x, y, z) becomes (x, z, -y).
UPRIGHT = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
EVERY = 8  # of the photographs without a split of their own, one in so many is held out


class Photos(NamedTuple):
    """V photographs and where they were taken from."""

    cameras: Cameras
    pictures: Tensor  # [V, 4, H, W] RGB in [0, 1], not multiplied by alpha, and alpha

    def take(self, index: Tensor) -> Photos:
        """Some of them, by index or mask."""
        return Photos(Cameras(self.cameras.c2w[index], self.cameras.fov[index]), self.pictures[index])

    def over(self, background: Tensor) -> Tensor:
        """RGB over plain backgrounds, [V, 3] or [3] in [0, 1]."""
        rgb, alpha = self.pictures[:, :3], self.pictures[:, 3:]
        return rgb * alpha + background.reshape(-1, 3, 1, 1) * (1 - alpha)


def load_photos(folder: Path, size: int) -> tuple[Photos, Photos]:
    """Photographs to learn from, and others to be measured by.

    `transforms_train.json` and `transforms_test.json`, or one `transforms.json`, of which every eighth is held out.

    Args:
        folder: with those files; pictures are named relative to it, with or without their ending.
        size: pixels across; wider photographs are shrunk to it, averaging.

    Raises:
        UserError: a file is missing or is not what it should be.
    """
    if (folder / "transforms_train.json").exists():
        return _load(folder / "transforms_train.json", size), _load(folder / "transforms_test.json", size)
    whole = _load(folder / "transforms.json", size)
    held = torch.arange(len(whole.pictures)) % EVERY == EVERY - 1
    if not held.any():
        raise UserError(f"{folder}: at least {EVERY} photographs are needed")
    return whole.take(~held), whole.take(held)


def _load(path: Path, size: int) -> Photos:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        angle = math.degrees(float(table["camera_angle_x"]))
        poses = torch.tensor([frame["transform_matrix"] for frame in table["frames"]], dtype=torch.float32)
        names = [str(frame["file_path"]) for frame in table["frames"]]
        if poses.shape[1:] != (4, 4) or not poses.isfinite().all() or not 0 < angle < 180:
            raise ValueError("a pose is not a 4 x 4 matrix, or the angle is none")
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a table of posed photographs: {error!r}") from None
    pictures = [_picture(path.parent, name, size) for name in names]
    if len({p.shape for p in pictures}) != 1:
        raise UserError(f"{path}: the photographs differ in size")
    return Photos(Cameras(UPRIGHT @ poses, torch.full((len(poses),), angle)), torch.stack(pictures))


def _picture(folder: Path, name: str, size: int) -> Tensor:
    path = folder / name
    path = path if path.suffix else path.with_suffix(".png")
    try:
        pixels: Any = iio.imread(path)  # pyright: ignore[reportUnknownMemberType] - imageio's types are partial
        array = torch.as_tensor(pixels).float() / 255
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read the photograph {path}: {' '.join(str(error).split())[:200]}") from None
    if array.ndim != 3 or array.shape[-1] != 4:
        raise UserError(f"{path}: RGBA is needed, whose alpha says what is the object")
    picture = array.permute(2, 0, 1)
    if picture.shape[-1] <= size:
        return picture
    alpha = picture[3:]
    height = max(1, round(size * picture.shape[-2] / picture.shape[-1]))
    down, across = _averages(picture.shape[-2], height), _averages(picture.shape[-1], size)
    small = down @ torch.cat([picture[:3] * alpha, alpha]) @ across.T
    return torch.cat([small[:3] / small[3:].clamp_min(1e-6), small[3:]])


def _averages(many: int, few: int) -> Tensor:
    """Exact averages of `many` pixels over `few` equal pieces, [few, many]."""
    edges = torch.arange(few + 1) * (many / few)
    pixels = torch.arange(many)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp_min(0) * (few / many)


def save_photos(photos: Photos, folder: Path, part: str) -> None:
    """Write `transforms_<part>.json` and the pictures, in the same convention; all cameras have the first one's FoV."""
    (folder / part).mkdir(parents=True, exist_ok=True)
    frames: list[dict[str, Any]] = []
    for i, (picture, pose) in enumerate(zip(photos.pictures, UPRIGHT.T @ photos.cameras.c2w, strict=True)):
        name = f"./{part}/r_{i}"
        image: Any = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        iio.imwrite(folder / f"{name}.png", image)  # pyright: ignore[reportUnknownMemberType]
        rows = [[float(v) for v in row] for row in pose]
        frames.append({"file_path": name, "transform_matrix": [[round(v, 7) for v in row] for row in rows]})
    table = {"camera_angle_x": math.radians(float(photos.cameras.fov[0])), "frames": frames}
    (folder / f"transforms_{part}.json").write_text(json.dumps(table, indent=1) + "\n")
