"""Score models: 2D only, they never see a field or a camera."""

from .load import load_score_model
from .mixture import MixtureModel
from .protocol import ScoreModel

__all__ = ["MixtureModel", "ScoreModel", "load_score_model"]
