"""One step of a run, two ways: with autograd, which specifies it, and with fused kernels, which a CUDA graph can hold.

A step reads one row of the schedule and draws nothing. It renders V views, asks for their score, and chains it through
the renderer (Eq. 11): the score enters the backward pass as the upstream gradient, and nothing is differentiated
through the network. Scores and losses are summed over the views and divided by V.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.adamax import Move
from ..kernels.contract import Gradients, Rendering, Upstream, gradient_shapes
from ..kernels.march import march_accumulate, march_forward
from ..kernels.measure import measure
from ..rendering import render
from ..rendering.fused import march_settings, scene_of
from ..scene.field import VoxelField
from ..scene.stack import FieldStack
from .config import LossConfig, OptimizerConfig, TrainConfig
from .losses import upstream_gradients
from .optimizers import OPTIMIZERS, parameter_groups
from .schedule import Row
from .scoring import Scorer


class Metrics(NamedTuple):
    """What a step measured, each a scalar tensor on the device; or [S] of S objects."""

    sigma: Tensor  # mean over views
    opacity: Tensor  # mean over views and pixels
    emptiness: Tensor  # mean over views, unweighted
    update_rms: Tensor  # root mean square of the update
    field_sum: Tensor  # sum of all that moved, after the step: finite where all of it is


@dataclass(frozen=True)
class StepSettings:
    """What a step knows of a run's configuration, besides how scores are estimated."""

    size: int  # pixels a side of a view
    backend: str  # the renderer
    textured: bool  # whether the background is the field's own texture
    losses: LossConfig
    optimizer: OptimizerConfig
    same_bits: bool = False  # whether gradients must be summed to the same bits every time

    @classmethod
    def of(cls, config: TrainConfig, size: int, backend: str, same_bits: bool = False) -> StepSettings:
        """What a run's configuration says of it."""
        return cls(size, backend, config.field.background == "texture", config.losses, config.optimizer, same_bits)


class Step:
    """What both ways share. Called with a row of the schedule, it takes the step.

    Args:
        field: the object; its parameters move.
        scorer: gives the weighted score of clean views.
        settings: of the run.
    """

    measured_by = "cpu"
    """The back end that measures it: "cpu" is PyTorch's operators, which take tensors of any device."""
    capturable = False
    """Whether the step never waits for the host, and so can be captured as a CUDA graph."""

    def __init__(self, field: VoxelField | FieldStack, scorer: Scorer, settings: StepSettings) -> None:
        self.field, self.scorer, self.settings = field, scorer, settings
        self.kind = OPTIMIZERS[settings.optimizer.name]
        groups = parameter_groups(field, settings.optimizer.lr, settings.optimizer.background_lr)
        self.optimizer = self.kind.torch(groups)

    def __call__(self, row: Row) -> Metrics:
        rendering, kept = self.render(row)
        update = self.scorer(rendering.features.detach(), row)
        views = len(update) // row.step.numel()  # of an object
        upstream = upstream_gradients(update * -(1 / views), rendering, row.loss_weights, self.settings.losses)
        self.chain(rendering, kept, upstream)
        sums = self.optimize(row)
        seen = (rendering.opacity.detach(), rendering.emptiness.detach())
        return Metrics(*measure(row.sigma, *seen, update, sums, backend=self.measured_by).unbind(-1))

    def render(self, row: Row) -> tuple[Rendering, Any]:
        """The row's views, and what their way back needs."""
        raise NotImplementedError

    def chain(self, rendering: Rendering, kept: Any, upstream: Upstream) -> None:
        """Upstream gradients to gradients of the field."""
        raise NotImplementedError

    def optimize(self, row: Row) -> Tensor:
        """Move the field, and forget its gradients; partial sums of what moved, [n]."""
        raise NotImplementedError

    def moved(self) -> list[Tensor]:
        """The parameters that a step moves."""
        field = self.field
        texture = [field.background] if self.settings.textured else []
        return [field.density, field.features, field.density_scale, *texture]

    def background(self, row: Row) -> Tensor | None:
        """The row's plain background, [V, 3] in [-1, 1]; None where the field has a texture."""
        return None if self.settings.textured else row.background * 2 - 1


class AutogradStep(Step):
    """With any renderer, autograd and `torch.optim`."""

    def render(self, row: Row) -> tuple[Rendering, Any]:
        s = self.settings
        options: dict[str, Any] = {
            "background": self.background(row),
            "beta": s.losses.emptiness_beta,
            "slots": row.slots,
        }
        assert isinstance(self.field, VoxelField)  # only the fused step takes several
        return render(self.field, row.cameras, s.size, backend=s.backend, **options), None

    def chain(self, rendering: Rendering, kept: Any, upstream: Upstream) -> None:  # noqa: ARG002
        pairs = [
            (getattr(rendering, name), gradient)
            for name, gradient in zip(upstream._fields, upstream, strict=True)
            if gradient is not None
        ]
        torch.autograd.backward([root for root, _ in pairs], [gradient for _, gradient in pairs])

    def optimize(self, row: Row) -> Tensor:
        for group, lr in zip(self.optimizer.param_groups, (row.lr, row.background_lr), strict=True):
            group["lr"] = float(lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack([parameter.detach().sum() for parameter in self.moved()])


class FusedStep(Step):
    """With the fused kernels: gradients in buffers of its own, rates read on the device; also of a stack of fields.

    The optimizer's state has the names and shapes of `torch.optim`, so that a run can change from one way to the other.
    """

    def __init__(self, field: VoxelField | FieldStack, scorer: Scorer, settings: StepSettings) -> None:
        super().__init__(field, scorer, settings)
        self.capturable = settings.backend == "triton" and scorer.fused
        self.measured_by = settings.backend
        self.march = march_settings(field, settings.backend, settings.losses.emptiness_beta)
        for parameter in self.moved():
            zeros = {name: torch.zeros_like(parameter, requires_grad=False) for name in self.kind.moments}
            self.optimizer.state[parameter] = {"step": torch.zeros(()), **zeros}

    @functools.cached_property
    def grads(self) -> Gradients:
        """Made at the first step, since an object that steps together with others never needs its own."""
        density = self.field.density
        shapes = gradient_shapes(density.shape, self.field.channels)
        return Gradients(*(torch.zeros(shape, device=density.device) for shape in shapes))

    def render(self, row: Row) -> tuple[Rendering, Any]:
        scene = scene_of(self.field, row.cameras, self.background(row)).detach()
        size = self.settings.size
        rendering, saved = march_forward(scene, height=size, width=size, slots=row.slots, **self.march)
        return rendering, (scene, saved)

    def chain(self, rendering: Rendering, kept: Any, upstream: Upstream) -> None:  # noqa: ARG002
        scene, saved = kept
        march_accumulate(self.grads, scene, saved, upstream, **self.march, deterministic=self.settings.same_bits)

    def optimize(self, row: Row) -> Tensor:
        field, grads = self.field, self.grads
        channels = field.channels
        texture = grads.texture.movedim(-1, -3)[..., :channels, :, :]
        gradients = [grads.density, grads.features[..., :channels], grads.log_scale, texture]
        moves: list[Move] = []
        for parameter, gradient in zip(self.moved(), gradients, strict=False):  # a plain background has no texture
            state = self.optimizer.state[parameter]
            first, second = (state[name] for name in self.kind.moments)
            rate = row.background_lr if parameter is field.background else row.lr
            moves.append(Move(parameter.detach(), gradient, first, second, rate))
        return self.kind.fused_steps(moves, row.number, backend=self.march["backend"])


def make_step(field: VoxelField, scorer: Scorer, settings: StepSettings) -> Step:
    """The fused step where the backend has kernels for it; with autograd elsewhere, and where the same bits are asked
    for from run to run (`torch.use_deterministic_algorithms`), which the sums of Triton's fused step do not give."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    fused = settings.backend == "cpu" or (settings.backend == "triton" and not deterministic)
    return (FusedStep if fused else AutogradStep)(field, scorer, settings)
