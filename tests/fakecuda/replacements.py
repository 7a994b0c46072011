"""What decides by a number that it reads from the device, where none was computed: all of it, with the reasons."""

from __future__ import annotations

import torch

from sjc_fast.scene import field
from sjc_fast.scores import attention


def replace() -> None:
    """For every scenario."""
    # It reads the sides of the box, of which the device computed the difference. They are those of the usual box.
    field.VoxelField.step_size = lambda self, step_ratio=0.5: step_ratio * 2 / self.density.shape[0]
    # Of a field that is copied on the device (as a preview copies one to leave fog out), it asks whether all is finite.
    field.check_tensors = lambda tensors, density_shift: None
    # Attention is tried, and held against another: of answers that nobody computed.
    attention.relative_error = lambda answer, truth: 0.0


def replace_for_benchmarks() -> None:
    """For `benchmarks.gpu`."""
    from benchmarks import gpu, gpu_kernels
    from sjc_fast.rendering import reference

    # Processes that would compile kernels beforehand: they would not have the Python side of the device.
    gpu.compile_apart = lambda session, names: {}
    # How many places are not zero, which is a number in memory that nobody wrote.
    nonzero = torch.Tensor.nonzero

    def some(self: torch.Tensor, **kind: bool) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if not self.is_cuda:
            return nonzero(self, **kind)
        places = torch.zeros(1000, self.dim(), dtype=torch.int64, device=self.device)
        return places.unbind(1) if kind.get("as_tuple") else places

    torch.Tensor.nonzero = some
    # The errors of a rendering: it asserts that all is finite.
    gpu_kernels.errors = lambda rendered, truth: {"features": 0.0}
    # Samples of a ray, of which it takes the largest number: zero would leave nothing to launch.
    reference.sample_slots = lambda t_min, t_max, step: torch.tensor(300)
    # The work of a rendering, which is found by rendering; figures of the right size stand for it.
    work = {"samples": 800_000, "bright": 400_000, "cells": 400_000, "bright_cells": 200_000}
    gpu_kernels.count_work = lambda *_: dict(work)


def replace_for_runs() -> None:
    """For whole runs."""
    from sjc_fast.runs import attend
    from sjc_fast.training.trainer import Trainer

    # A field of zeros has no surface, and its last pictures would come from a decoder that is not there.
    attend.write_results = lambda *_: {}
    # Before a checkpoint it asks whether all is finite.
    Trainer.is_finite = lambda self: True


def replace_for_compilation() -> None:
    """For `torch.compile`, whose own launcher loads what it compiled through the driver, not through Triton's."""
    from torch._inductor import config
    from torch._inductor.runtime import triton_helpers

    config.use_static_cuda_launcher = False
    config.compile_threads = 1  # its processes would not have the Python side of the device
    # It would choose among the drivers that find a device.
    triton_helpers.set_driver_to_gpu = lambda: None
