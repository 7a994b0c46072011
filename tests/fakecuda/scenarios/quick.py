"""``python -m benchmarks.gpu --quick`` from beginning to end, as far as that needs no numbers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import gpu

from ..replacements import replace_for_benchmarks


def run() -> dict[str, Any]:
    replace_for_benchmarks()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "gpu.json"
        gpu.main(["--quick", "--budget", "900", "--output", str(output)])
        found = json.loads(output.read_text())
    for name in gpu.QUICK:
        rows = found[name] if isinstance(found[name], list) else [found[name]]
        for row in rows:
            assert not isinstance(row.get("error"), str), f"section {name} fails: {row['error'].splitlines()[-1]}"
            assert "note" not in row, f"section {name} was left out: {row['note']}"
    assert found["replays"]["captured"], "the step of the section replays was not captured"
    return {"sections": list(gpu.QUICK)}
