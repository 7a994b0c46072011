"""Everything that the compiled march gives, of several scenes; also for another process."""

import torch

from sjc_fast.kernels.contract import Gradients, Upstream
from sjc_fast.kernels.march import march_accumulate, march_forward
from sjc_fast.rendering.checks import make_cameras, make_field
from sjc_fast.rendering.fused import march_settings, scene_of


def gradients(field, cameras, height=19, width=21):
    """Outputs and gradients of the compiled march."""
    scene = scene_of(field, cameras).detach()
    options = march_settings(field, "cpu", 10.0)
    rendering, saved = march_forward(scene, height=height, width=width, **options)
    shape = field.density.shape
    grads = Gradients(*(torch.zeros(s) for s in (shape, (*shape, 4), (4, 4, 4), ())))
    up = torch.randn(saved.features.shape, generator=torch.Generator().manual_seed(0))
    upstream = Upstream(up, torch.ones_like(saved.depth), None, torch.ones(len(cameras)))
    march_accumulate(grads, scene, saved, upstream, **options)
    return [*rendering, *saved, *grads]


def everything():
    """Outputs and gradients of several scenes."""
    found = []
    for kind, camera, channels in (("solid", "outside", 3), ("solid", "inside", 4), ("fog", "outside", 4)):
        found += gradients(make_field(kind, channels=channels), make_cameras(camera))
    return found
