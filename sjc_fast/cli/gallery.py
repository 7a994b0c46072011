"""`sjc-fast gallery`: one page that shows many runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import UserError
from ..storage.files import prepare
from . import parse


@dataclass
class GalleryOptions:
    """One self-contained page with the turntables of many runs, and links to their reports."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    output: Path = Path("gallery.html")
    title: str = "Made with SJC-Fast"


def main(arguments: list[str]) -> None:
    """Write the page and say where."""
    options = parse(GalleryOptions, arguments, "gallery")
    if not options.runs:
        raise UserError("gallery: name at least one run folder, e.g. sjc-fast gallery runs/*")
    if options.output.suffix != ".html":
        raise UserError(f"--output {options.output}: give a name that ends in .html")
    from ..runs.report import write_gallery

    prepare(options.output)
    print(write_gallery(options.runs, options.output, options.title))
