"""Real diffusers pipelines with random weights: the ones that the benchmarks measure, tiny."""

from benchmarks.pipelines import NOISE_TABLE, SHAPES, StandIn, ddim, stable_diffusion, unet

__all__ = ["NOISE_TABLE", "SHAPES", "StandIn", "ddim", "stable_diffusion", "unet"]
