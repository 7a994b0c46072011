"""The live viewer: a browser page that orbits a field, by itself or while it trains."""

from .reporting import ViewerReporter, view_run
from .server import Viewer, check_port

__all__ = ["Viewer", "ViewerReporter", "check_port", "view_run"]
