"""One command that proves and times everything worth a GPU: ``python -m benchmarks.gpu [--quick] [--output PATH]``.

It runs from a bare checkout with PyTorch, Triton and NumPy; a section that wants more says what it lacks. The sections
come in the order of what they tell, each may take half of the time that is left (``--budget SECONDS``), and the JSON is
written after each and when the process is asked to end, so that a run cut short still counts; a section that fails is
recorded and the rest goes on. ``--quick`` says in a budget of 110 s whether everything works. Without a GPU (or with
``--small``) everything runs at toy sizes, the kernels in Triton's interpreter: that proves the script and times
nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from .report import RESULTS
from .session import Session
from .verdict import TARGETS, quick_verdict, table, verdict

#: Sections: their names, where their functions are, the most telling first.
SECTIONS = {
    "numerics": "gpu_kernels.numerics",
    "operations": "gpu_kernels.operations",
    "graphs": "gpu_kernels.graphs",
    "paper": "gpu_kernels.paper_times",
    "replays": "steps.replays",
    "network": "steps.network",
    "batch": "batch.together",
    "rates": "gpu_kernels.rates",
    "reference": "gpu_kernels.reference_times",
    "march": "gpu_kernels.march_times",
    "step_checks": "steps.step_checks",
    "steps": "steps.step_times",
    "end_to_end": "steps.end_to_end",
    "trace": "steps.trace",
    "determinism": "gpu_kernels.determinism",
    "plans": "gpu_kernels.plans",
    "skipping": "gpu_kernels.skipping",
    "sanitizer": "gpu_kernels.sanitizer",
}
QUICK = ("numerics", "operations", "graphs", "paper", "replays", "network")
#: Sections whose kernels are compiled beforehand, each line by a process of its own.
COMPILED_APART = ("numerics", "operations", "graphs,paper,skipping", "march", "plans,determinism", "network")
BUDGET = {"quick": 110, "whole": 500}  # seconds


class Ended(BaseException):
    """The process was asked to end; no section that forgives its failures catches it."""


def main(arguments: list[str] | None = None) -> int:
    """Run the sections; 1 if one failed, 143 if the process was asked to end."""
    options = parse(arguments)
    if options.cache:
        os.environ["TRITON_CACHE_DIR"] = str(options.cache.resolve())  # before a kernel is compiled; children inherit
    s = Session(options.small, options.output, options.budget, once=options.once)
    s.result |= {"targets": TARGETS, "quick": options.quick, "failed": []}

    def end(*_: Any) -> None:
        raise Ended

    usual = signal.signal(signal.SIGTERM, end)
    try:
        if s.device.type == "cuda" and not options.once:
            s.result["compilation"] = compile_apart(s, options.sections)
        for name in options.sections:
            section(s, name)
    except (Ended, KeyboardInterrupt):
        s.result["ended"] = "the process was asked to end"
    finally:
        signal.signal(signal.SIGTERM, usual)
        s.save()
    conclude(s)
    return 143 if "ended" in s.result else int(bool(s.result["failed"]))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--quick", action="store_true", help=f"does everything work: {', '.join(QUICK)}")
    parser.add_argument("--budget", type=float, help=f"seconds; {BUDGET['whole']}, or {BUDGET['quick']} with --quick")
    parser.add_argument("--only", help="sections, with commas between: the rest of a long run can be another call")
    parser.add_argument("--cache", type=Path, help="folder of compiled kernels, which can be kept for another call")
    parser.add_argument("--small", action="store_true", help="toy sizes: proves the script, times nothing")
    parser.add_argument("--once", action="store_true", help="call everything once and time nothing: to compile")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",") if options.only else QUICK if options.quick else SECTIONS
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: choose of {', '.join(SECTIONS)}")
    options.sections = [name for name in SECTIONS if name in chosen]
    options.budget = options.budget or BUDGET["quick" if options.quick else "whole"]
    return options


def section(s: Session, name: str) -> None:
    """Run one, and keep what it found or why it did not."""
    s.begin()
    if s.late:
        s.result[name] = {"note": "out of time: not measured"}
        return
    start = time.monotonic()
    try:
        module, function = SECTIONS[name].split(".")
        found = getattr(importlib.import_module(f".{module}", __package__), function)(s)
    except ModuleNotFoundError as error:
        found = {"note": f"lacks {error.name}"}
    except Exception:
        found = {"error": traceback.format_exc()}
    rows = found if isinstance(found, list) else [found]
    bad = [r for r in rows if r.get("passes") is False or isinstance(r.get("error"), str)]
    s.result[name] = found
    s.result["failed"] += [name] * bool(bad)
    s.save()
    said = "FAILED" if bad else found["note"] if isinstance(found, dict) and "note" in found else "done"
    print(f"{name}: {said}, {time.monotonic() - start:.1f} s", flush=True)
    if bad:
        print(json.dumps(bad, indent=1)[-2000:], flush=True)


def compile_apart(s: Session, names: list[str]) -> dict[str, Any]:
    """Fill Triton's cache: the sections' kernels, compiled by several processes at once."""
    groups = [[n for n in line.split(",") if n in names] for line in COMPILED_APART]
    start = time.monotonic()
    running = {}
    for group in filter(None, groups):
        command = [sys.executable, "-m", "benchmarks.gpu", "--once", "--only", ",".join(group), "--output", os.devnull]
        running[",".join(group)] = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    found: dict[str, Any] = {}
    try:
        for group, process in running.items():
            try:
                _, said = process.communicate(timeout=max(1, start + s.left / 3 - time.monotonic()))
                found[group] = "done" if process.returncode == 0 else said[-300:]
            except subprocess.TimeoutExpired:
                found[group] = "stopped: the rest is compiled when it is called"
    finally:
        for process in running.values():
            process.kill()
    return found | {"seconds": time.monotonic() - start}


def conclude(s: Session) -> None:
    """Judge, write and print what was found."""
    if s.once:
        return
    try:
        s.result["verdict"] = verdict(s.result)
        s.result["works"] = quick_verdict(s.result)
    except Exception:
        s.result["verdict"] = {"error": traceback.format_exc()}
    s.save()
    print(table(s.result))
    print(json.dumps({"verdict": s.result["verdict"], "works": s.result.get("works")}, indent=1))
    print(s.output)


if __name__ == "__main__":
    sys.exit(main())
