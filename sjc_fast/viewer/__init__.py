"""The live viewer: a browser page that orbits a field, by itself or while it trains."""

from .reporting import ViewerReporter, training_cameras
from .server import Viewer, check_port

__all__ = ["Viewer", "ViewerReporter", "check_port", "training_cameras"]
