"""SJC-Fast: text to 3D by Score Jacobian Chaining (arXiv 2212.00774).

import sjc_fast as sjc
result = sjc.generate("a red mushroom")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import generate
    from .errors import UserError
    from .paas import paas_score
    from .rendering import Rendering, render
    from .scene.cameras import Cameras, orbit, ring
    from .scene.field import VoxelField
    from .scores import MixtureModel, ScoreModel, load_score_model

__version__ = "0.1.0"

_HOME = {
    "generate": "api",
    "Cameras": "scene.cameras",
    "orbit": "scene.cameras",
    "ring": "scene.cameras",
    "UserError": "errors",
    "VoxelField": "scene.field",
    "paas_score": "paas",
    "Rendering": "rendering",
    "render": "rendering",
    "MixtureModel": "scores",
    "ScoreModel": "scores",
    "load_score_model": "scores",
}

__all__ = [
    "Cameras",
    "MixtureModel",
    "Rendering",
    "ScoreModel",
    "UserError",
    "VoxelField",
    "generate",
    "load_score_model",
    "orbit",
    "paas_score",
    "render",
    "ring",
]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: importing torch takes seconds, and `sjc-fast --help` needs none of it.
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
