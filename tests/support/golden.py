"""The authors' numbers (tests/data/*.npz, computed with their published code) as fields and cameras of ours."""

from pathlib import Path

import numpy as np
import torch

from sjc_fast.rendering import checks
from sjc_fast.scene.cameras import Cameras
from sjc_fast.scene.field import VoxelField

DATA = Path(__file__).parents[1] / "data"


def load(name: str) -> dict[str, torch.Tensor]:
    with np.load(DATA / f"{name}.npz") as file:
        return {k: torch.as_tensor(v) for k, v in file.items() if v.dtype.kind != "U"}


def strings(name: str, key: str) -> list[str]:
    with np.load(DATA / f"{name}.npz") as file:
        return file[key].tolist()


def field_of(data: dict, prefix: str = "", box: str = "aabb") -> VoxelField:
    """A field from the authors' arrays [1, C, Z, Y, X]."""
    tensors = {
        "density": data[f"{prefix}density"][0, 0],
        "features": data[f"{prefix}color"][0].permute(1, 2, 3, 0).contiguous(),
        "background": data[f"{prefix}bg"][0],
        "density_scale": data[f"{prefix}d_scale"],
        "box": data[box],
    }
    return VoxelField.from_tensors(tensors, "raw", float(data["density_shift"]))


def camera_of(c2w: torch.Tensor, intrinsics: torch.Tensor, width: int) -> Cameras:
    """One camera from the authors' pose [4, 4] and intrinsics [3, 3]."""
    fov = torch.rad2deg(2 * torch.atan(width / 2 / intrinsics[0, 0]))
    return Cameras(c2w[None].float(), fov[None].float())


#: How far two float32 renderings of a scene may be apart, by a rounding analysis. The optical depth of a ray sums up
#: to at most 14 (transmittance 1e-6): a running float32 sum of it errs by some 14 x 2^-23 = 1.7e-6, and so does the
#: transmittance behind it, relatively; an implementation's exp and division add a few 1e-7. Two implementations differ
#: by twice that in opacity; with exp and division off by two units in the last place 2.2e-6 was seen.
ROUNDING = 1e-5
#: By output, what opacity's error is multiplied by: light that passes through counts as depth 10; features are up to 4.
SCALES = {"features": 4.0, "depth": 10.0, "opacity": 1.0, "emptiness": 1.0}
#: Of a gradient, relative root mean square: the gradient of a sample is a difference, G - P_k, of sums over its ray, so
#: what is left errs by the rounding of the larger ones. 7.7e-6 was seen.
GRADIENT = 3e-5
#: Of the log-scale's gradient, a sum over all samples, over the sum of its terms' sizes: they cancel.
LOG_SCALE = 3e-6


def assert_outputs(out, data):
    """A rendering of one view is the authors'."""
    truths = ("out_features", "out_depth", "out_weight_sum", "out_emptiness")
    for (name, value), truth in zip(out._asdict().items(), truths, strict=True):
        mine = value.detach().cpu().reshape(data[truth].shape)
        limit = SCALES[name] * ROUNDING
        torch.testing.assert_close(mine, data[truth], atol=limit, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def assert_gradients(field, out, data):
    """So are the gradients of their function of it."""
    loss = (out.features.cpu() * data["grad_features"]).sum() + (out.depth[0].cpu() * data["grad_depth"]).sum()
    (loss + data["emptiness_coef"] * out.emptiness[0].cpu()).backward()
    for mine, truth in (
        (field.density.grad, data["grad_density"][0, 0]),
        (field.features.grad.permute(3, 0, 1, 2), data["grad_color"][0]),
        (field.background.grad, data["grad_bg"][0]),
    ):
        assert checks.relative_rmse(mine.cpu(), truth) < GRADIENT
    terms = (data["grad_density"] * data["density"]).abs().sum()
    error = (field.density_scale.grad.cpu() - data["grad_d_scale"]).abs() / terms
    torch.testing.assert_close(error, torch.zeros_like(error), atol=LOG_SCALE, rtol=0)
