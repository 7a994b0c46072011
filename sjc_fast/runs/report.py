"""HTML pages that need nothing else: a run's report, and a gallery of runs."""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, select_autoescape

from ..storage.files import atomic
from ..training.config import TrainConfig, load_yaml, settings_of
from .charts import line_chart
from .folder import RunFolder
from .journal import read_metrics, read_record

EMBEDDED_MOST = 32 * 2**20  # bytes of a video that still goes into a page
COLORS = ("#2f6fde", "#e0862d", "#3aa76d", "#9b59c5", "#8a93a0")

CHARTS = (
    ("opacity", "mean opacity", False),
    ("emptiness", "emptiness loss, unweighted", False),
    ("update_rms", "score, root mean square of the update", True),
    ("sigma", "noise level sigma", True),
)
METRICS = {"opacity": "opacity", "emptiness": "emptiness", "update_rms": "update, root mean square", "sigma": "sigma"}
MESH_FIGURES = {"iso": "density at the surface", "psnr": "PSNR against the volume, dB"}
TYPES = {".mp4": "video/mp4", ".jpg": "image/jpeg", ".png": "image/png"}


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("sjc_fast.runs"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )


def write_report(folder: RunFolder) -> Path:
    """Write report.html into a run folder, from what lies there.

    Raises:
        UserError: not a run folder, or it cannot be written to.
    """
    config, record, rows = load_yaml(folder.config), read_record(folder), read_metrics(folder)
    page = (
        _templates()
        .get_template("report.html")
        .render(
            prompt=config.prompt,
            summary=_summary(config, record),
            turntable=_embedded(folder.turntable),
            no_turntable="The run is not finished." if record.get("status") != "finished" else "No turntable was made.",
            timeline=[{"step": step, "picture": _embedded(picture)} for step, picture in folder.moments()],
            figures=_figures(record, rows),
            charts=[c for c in (_chart(rows, *chart) for chart in CHARTS) if c],
            times=[
                {"name": name, "seconds": seconds, "color": COLORS[i % len(COLORS)]}
                for i, (name, seconds) in enumerate(record.get("seconds", {}).items())
            ],
            files=_files(folder),
            versions=list(record.get("versions", {}).items()),
            settings=list(settings_of(config).items()),
        )
    )
    return _write(page, folder.report)


def write_gallery(folders: Sequence[Path], output: Path, title: str, embedded: bool = True) -> Path:
    """Write one page that shows many runs, with links to their reports.

    Args:
        folders: of the runs.
        output: the page.
        title: above them.
        embedded: videos and pictures are in the page, which then needs nothing else; or it refers to those of the runs.

    Raises:
        UserError: one of them is not a run folder, or the page cannot be written.
    """
    cards = []
    linked = functools.partial(_linked, output.parent)
    shown = _embedded if embedded else linked
    for folder in map(RunFolder, folders):
        config, record = load_yaml(folder.config), read_record(folder)
        moments = folder.moments()
        picture = moments[-1][1] if moments else folder.preview
        cards.append(
            {
                "prompt": config.prompt,
                "summary": _summary(config, record),
                "video": shown(folder.turntable),
                "picture": shown(picture),
                "link": linked(folder.report),
            }
        )
    return _write(_templates().get_template("gallery.html").render(title=title, cards=cards), output)


def _linked(base: Path, path: Path) -> str:
    """A file as seen from a folder, as a URL; empty if it is not there."""
    return quote(Path(os.path.relpath(path, base)).as_posix()) if path.exists() else ""


def _write(page: str, path: Path) -> Path:
    with atomic(path, "the page") as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _summary(config: TrainConfig, record: dict[str, Any]) -> str:
    seconds = sum(record.get("seconds", {}).values())
    parts = [
        f"model {Path(config.model).name}",
        f"{record.get('steps', 0)} of {config.steps} steps",
        f"seed {config.seed}",
    ]
    if record.get("device"):
        parts.append(f"on {record['device']}")
    if seconds:
        parts.append(f"in {seconds:.0f} s")
    if record.get("status") and record["status"] != "finished":
        parts.append(record["status"])
    return ", ".join(parts)


def _figures(record: dict[str, Any], rows: list[dict[str, float]]) -> list[tuple[str, str]]:
    figures = [("status", record.get("status", "running"))]
    if rows:
        last = rows[-1]
        figures += [(label, f"{last[name]:.4g}") for name, label in METRICS.items() if name in last]
        if last["seconds"] > 0 and len(rows) > 1:
            first = rows[0]
            pace = (last["seconds"] - first["seconds"]) / max(1, last["step"] - first["step"])
            figures.append(("milliseconds a step", f"{pace * 1e3:.1f}"))
    words = {True: "yes", False: "no"}
    for name, value in record.get("mesh", {}).items():
        shown = words[value] if isinstance(value, bool) else str(value)
        figures.append((f"mesh, {MESH_FIGURES.get(name, name)}", shown))
    return figures


def _chart(rows: list[dict[str, float]], name: str, title: str, logarithmic: bool) -> str:
    points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    return line_chart(title, [s for s, _ in points], [v for _, v in points], logarithmic=logarithmic)


def _files(folder: RunFolder) -> list[dict[str, str]]:
    found = []
    for path, what in folder.described():
        size = path.stat().st_size
        text = f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{max(1, size // 2**10)} kB"
        found.append({"name": path.name, "what": what, "size": text})
    return found


def _embedded(path: Path) -> str:
    """A file as a data URL; empty if it is not there, or too large for a page."""
    if not path.is_file() or path.stat().st_size > EMBEDDED_MOST:
        return ""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
