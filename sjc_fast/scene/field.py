"""The 3D object: a voxel grid of density and features in the box, and a background around it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..kernels.contract import MOST_CHANNELS
from ..storage.files import atomic
from ..storage.tensors import read_tensors, write_tensors


class VoxelField(nn.Module):
    """Density and features on a grid, read by trilinear interpolation.

    Density at a point is ``softplus(exp(density_scale) * r + density_shift)``, with r the interpolated raw value
    (0 outside the box): optical thickness per unit of world length. Grids are stored [z, y, x], features channel-last.

    Args:
        resolution: voxels a side.
        channels: of what the model denoises, 1 to 32: 3 for a pixel model, 4 for most latent models.
        activation: "raw" for latents; "sigmoid" maps interpolated raw values to colors by ``2 sigmoid(.) - 1``;
            default by the channels: sigmoid for 3, raw otherwise.
        density_shift: the softplus shift; -1 in the paper's code, which starts as a thin fog.
        density_init: raw density everywhere at the start.
        feature_std: standard deviation of the random features at the start.
        box: minimum and maximum corner, [2, 3].
        generator: where the random features come from.
    """

    density: Tensor  # [D, H, W] raw
    features: Tensor  # [D, H, W, C] raw
    background: Tensor  # [C, 4, 4] raw texture over ray directions
    density_scale: Tensor  # [] log-scale, learned ("d_scale" in the paper's code)
    box: Tensor  # [2, 3]

    def __init__(
        self,
        resolution: int | tuple[int, int, int] = 100,
        channels: int = 4,
        *,
        activation: str | None = None,
        density_shift: float = -1.0,
        density_init: float = 0.0,
        feature_std: float = 1.0,
        box: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        activation = activation or ("sigmoid" if channels == 3 else "raw")
        if activation not in ("raw", "sigmoid"):
            raise ValueError(f"activation is 'raw' or 'sigmoid', not {activation!r}")
        shape = (resolution,) * 3 if isinstance(resolution, int) else tuple(resolution)
        self.activation = activation
        self.density_shift = float(density_shift)
        self.density = nn.Parameter(torch.full(shape, float(density_init)))
        self.features = nn.Parameter(torch.randn(*shape, channels, generator=generator) * feature_std)
        self.background = nn.Parameter(torch.randn(channels, 4, 4, generator=generator) * feature_std)
        self.density_scale = nn.Parameter(torch.zeros(()))
        corners = torch.tensor([[-1.0] * 3, [1.0] * 3]) if box is None else box.detach().clone()
        self.register_buffer("box", corners)
        self._extent: tuple[tuple[int, int], list[float]] | None = None

    @property
    def channels(self) -> int:
        return self.features.shape[-1]

    def step_size(self, step_ratio: float = 0.5) -> float:
        """Distance between samples along a ray: `step_ratio` times the mean voxel size."""
        version = (self.box.data_ptr(), self.box._version)
        if self._extent is None or self._extent[0] != version:  # reading the box waits for the device: once is enough
            self._extent = (version, [float(length) for length in self.box[1] - self.box[0]])
        extent = self._extent[1]
        sides = reversed(self.density.shape)  # the grid is [z, y, x]
        return step_ratio * sum(e / n for e, n in zip(extent, sides, strict=True)) / 3

    def activate_density(self, raw: Tensor) -> Tensor:
        """Raw interpolated values to density; any shape."""
        return nn.functional.softplus(self.density_scale.exp() * raw + self.density_shift)

    def activate_features(self, raw: Tensor) -> Tensor:
        """Raw interpolated values to what the renderer composites; any shape."""
        return 2 * raw.sigmoid() - 1 if self.activation == "sigmoid" else raw

    def raw_density(self, density: float) -> float:
        """The raw value whose density is `density` (> 0): the inverse of `activate_density`."""
        inverse = density + math.log(-math.expm1(-density))  # of softplus, without overflow
        return (inverse - self.density_shift) / math.exp(float(self.density_scale.detach()))

    @torch.no_grad()
    def density_grid(self) -> Tensor:
        """Density at the voxel centers, [D, H, W]."""
        return self.activate_density(self.density)

    def save(self, path: Path | str) -> None:
        """Write the field as one safetensors file, atomically."""
        metadata = {"activation": self.activation, "density_shift": repr(self.density_shift)}
        with atomic(Path(path), "the field") as partial:
            write_tensors(self.state_dict(), partial, metadata)

    @classmethod
    def load(cls, path: Path | str) -> VoxelField:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or not a voxel field.
        """
        try:
            tensors, metadata = read_tensors(path)
            return cls.from_tensors(tensors, metadata["activation"], float(metadata["density_shift"]))
        except FileNotFoundError:
            raise UserError(f"no voxel field at {path}") from None
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is damaged or not a voxel field: {_first_line(error)}") from None

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], activation: str | None, density_shift: float) -> VoxelField:
        """A field around existing tensors, named and shaped as the attributes of this class.

        Raises:
            ValueError: they are not the tensors of a field, or hold NaN or infinity.
        """
        check_tensors(tensors, density_shift)
        field = cls(1, tensors["features"].shape[-1], activation=activation, density_shift=density_shift)
        field.density = nn.Parameter(torch.empty_like(tensors["density"]))
        field.features = nn.Parameter(torch.empty_like(tensors["features"]))
        field.load_state_dict(tensors)
        return field

    @classmethod
    def from_sjc_checkpoint(
        cls, path: Path | str, *, activation: str = "raw", density_shift: float = -1.0, box: Tensor | None = None
    ) -> VoxelField:
        """Load a state dict of the authors' code (`.pt`, keys density, color, bg, d_scale).

        Args:
            path: the file; it is read with ``weights_only=True``, so nothing in it can run.
            activation, density_shift: not in the file; the defaults are those of the authors' latent fields.
            box: minimum and maximum corner [2, 3], if the file has no "aabb"; default [-1, 1]^3.

        Raises:
            UserError: the file is missing, unreadable, or lacks one of the keys.
        """
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise UserError(f"no checkpoint at {path}") from None
        except Exception as error:  # torch raises many kinds here; all mean the same to the caller
            raise UserError(f"{path} cannot be read as a PyTorch state dict: {_first_line(error)}") from None
        known: set[Any] = set(state) if isinstance(state, dict) else set()  # pyright: ignore[reportUnknownArgumentType]
        missing = [k for k in ("density", "color", "bg", "d_scale") if k not in known]
        if missing:
            raise UserError(f"{path} is not a voxel checkpoint of the SJC code: it lacks {', '.join(missing)}")
        try:
            of: dict[str, Any] = cast("dict[str, Any]", state)
            corners: Any = box if box is not None else of.get("aabb", torch.tensor([[-1.0] * 3, [1.0] * 3]))
            tensors: dict[str, Tensor] = {
                "density": of["density"].float()[0, 0].contiguous(),
                "features": of["color"].float()[0].permute(1, 2, 3, 0).contiguous(),
                "background": of["bg"].float()[0].contiguous(),
                "density_scale": torch.as_tensor(of["d_scale"]).float().reshape(()),
                "box": torch.as_tensor(corners).float().reshape(2, 3),
            }
            return cls.from_tensors(tensors, activation, density_shift)
        except (ValueError, RuntimeError, IndexError, AttributeError, TypeError) as error:
            raise UserError(f"{path} is not a voxel checkpoint of the SJC code: {_first_line(error)}") from None


def check_tensors(tensors: dict[str, Tensor], density_shift: float) -> None:
    """Refuse what only looks like a field, before anything is computed from it.

    Raises:
        ValueError: what is wrong with the tensors.
    """
    absent = {"density", "features", "background", "density_scale", "box"} - set(tensors)
    if absent:
        raise ValueError(f"it lacks {', '.join(sorted(absent))}")
    shape, features = tuple(tensors["density"].shape), tuple(tensors["features"].shape)
    channels = features[-1] if features else 0
    expected = {"features": (*shape, channels), "background": (channels, 4, 4), "density_scale": (), "box": (2, 3)}
    wrong = [k for k, v in expected.items() if tuple(tensors[k].shape) != v]
    if len(shape) != 3 or 0 in shape or not 1 <= channels <= MOST_CHANNELS or wrong:
        raise ValueError(f"its tensors do not fit each other ({', '.join(wrong) or 'density'})")
    if any(t.dtype != torch.float32 for t in tensors.values()):
        raise ValueError("its numbers are not float32")
    if not all(bool(t.isfinite().all()) for t in tensors.values()) or not math.isfinite(density_shift):
        raise ValueError("it holds NaN or infinity")
    if not bool((tensors["box"][0] < tensors["box"][1]).all()) or abs(float(tensors["density_scale"])) > 50:
        raise ValueError("its box or its density scale is impossible")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
