"""Rendering: a voxel field and cameras in, views out."""

from ..kernels.contract import Rendering
from .render import BACKENDS, choose_backend, render

__all__ = ["BACKENDS", "Rendering", "choose_backend", "render"]
