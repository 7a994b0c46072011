"""The browser that the benchmarks take pictures with."""

from benchmarks.browser import PROGRAM, chromium

__all__ = ["PROGRAM", "chromium"]
