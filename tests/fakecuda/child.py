"""One scenario, in a process whose environment has the runtime: ``python -m tests.fakecuda.child NAME OUTPUT``."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from pathlib import Path

from . import device

os.environ.pop("LD_PRELOAD", None)  # programs that are started from here, such as ptxas, go without
device.install()

import benchmarks  # noqa: E402, F401  gives kernels/ its name, in a checkout that is not installed

from .replacements import replace  # noqa: E402


def main(name: str, output: Path) -> None:
    """Run it and write its figures as JSON."""
    logging.basicConfig(format="%(message)s")
    replace()
    found = importlib.import_module(f".scenarios.{name}", __package__).run()
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
