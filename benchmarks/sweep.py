"""Settings of the embedded model, one changed at a time: ``python -m benchmarks.sweep``, several prompts and seeds.

Writes results/sweep.json, goes on where it was stopped, and prints the table that docs/embedded-model.md has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import tyro

from sjc_fast import load_score_model
from sjc_fast.experiments.statistics import interval
from sjc_fast.runs.settings import default_config
from sjc_fast.shapes.truth import judge
from sjc_fast.training.config import merge
from sjc_fast.training.trainer import Trainer

from .report import RESULTS, save

BASE = "sigma from 8 to 0.1, antithetic pairs, 400 steps"
#: What is changed, by the words of the table. The number of evaluations stays, but where the words say otherwise.
CHANGES: dict[str, dict[str, Any]] = {
    BASE: {"score": {"sigma": {"high": 8.0}}},
    "random sigma": {"score": {"sigma": {"mode": "random"}}},
    "log-uniform sigma": {"score": {"sigma": {"mode": "log-uniform"}}},
    "sigma from 14": {"score": {"sigma": {"high": 14.0}}},
    "sigma from 4": {"score": {"sigma": {"high": 4.0}}},
    "sigma down to 0.3": {"score": {"sigma": {"low": 0.3}}},
    "one noise sample, 800 steps": {"noise_samples": 1, "steps": 800, "score": {"antithetic": False}},
    "four noise samples, 200 steps": {"noise_samples": 4, "steps": 200},
    "independent noise": {"score": {"antithetic": False}},
    "control variate": {"score": {"antithetic": False, "estimator": "auto"}},
    "weight sigma^2": {"score": {"weighting": "sigma2"}},
    "guidance 2 (twice the evaluations)": {"guidance": 2.0},
    "twice the steps": {"steps": 800},
    "half the steps": {"steps": 200},
    "32 voxels a side": {"field": {"resolution": 32}},
    "64 voxels a side": {"field": {"resolution": 64}},
    "emptiness 100": {"losses": {"emptiness_weight": 100.0}},
    "emptiness 1000": {"losses": {"emptiness_weight": 1000.0}},
    "learning rate 0.1": {"optimizer": {"lr": 0.1}},
    "learning rate 0.4": {"optimizer": {"lr": 0.4}},
    "constant learning rate": {"optimizer": {"decay": "constant"}},
    "cameras anywhere in their direction": {"cameras": {"spread": 1.0}},
}


@dataclass
class Options:
    """How much is run."""

    prompts: tuple[str, ...] = ("a green house", "a purple ring", "a yellow car")
    seeds: int = 3
    only: tuple[str, ...] = tuple(CHANGES)


def main(options: Options) -> None:
    """Run every change with every prompt and seed."""
    model = load_score_model("shapes", "cpu")
    rows = kept(options)
    print("| changed | IoU | PSNR, dB |\n| --- | --- | --- |")
    for name in options.only:
        done = rows.setdefault(name, [])
        for prompt in () if done else options.prompts:
            for seed in range(options.seeds):
                config = merge(default_config("shapes"), {"prompt": prompt, "seed": seed, "device": "cpu"})
                run = Trainer(merge(merge(config, CHANGES[BASE]), CHANGES[name]), model)
                for _ in run.remaining():
                    pass
                done.append({"prompt": prompt, "seed": seed, **judge(run.field, prompt).figures()})
        print(line(name, done, rows[BASE]) if BASE in rows else name, flush=True)
        save("sweep", {"prompts": options.prompts, "seeds": options.seeds, "changes": CHANGES, "rows": rows})


def kept(options: Options) -> dict[str, list[dict]]:
    """What an earlier run with the same prompts and seeds has measured."""
    path = RESULTS / "sweep.json"
    if not path.exists():
        return {}
    earlier = json.loads(path.read_text())
    same = tuple(earlier["prompts"]) == options.prompts and earlier["seeds"] == options.seeds
    return {name: rows for name, rows in earlier["rows"].items() if rows} if same else {}


def line(name: str, rows: list[dict], base: list[dict]) -> str:
    """A row of the table: means, and the mean difference to the base, same prompt and seed, with its interval."""
    cells = [name]
    for key, digits in (("iou", 3), ("psnr", 2)):
        mean, _ = interval(r[key] for r in rows)
        gap, half = interval(a[key] - b[key] for a, b in zip(rows, base, strict=True))
        cells.append(f"{mean:.{digits}f}" + (f" ({gap:+.{digits}f} ± {half:.{digits}f})" if rows is not base else ""))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(tyro.cli(Options))
