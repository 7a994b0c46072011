"""Objects an hour: many objects on one device, by how many of them advance together.

``python -m benchmarks.batch`` makes eight objects with the embedded model on this machine's CPU: by the command
`sjc-fast train` once an object, and by `sjc-fast batch` with different numbers together; each object is judged against
the known truth as `sjc-fast evaluate` does. It writes results/batch.json. With a network of Stable Diffusion's shape
on a GPU, `python -m benchmarks.gpu` has the section `batch`, which is here too.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from sjc_fast import load_score_model
from sjc_fast.runs.settings import default_config
from sjc_fast.scene.field import VoxelField
from sjc_fast.shapes.truth import judge, mean
from sjc_fast.training import graphs
from sjc_fast.training.config import merge
from sjc_fast.training.stack import Stack
from sjc_fast.training.trainer import Trainer

from .report import save

PROMPTS = (
    "a red mushroom",
    "a blue snowman",
    "a green house",
    "a yellow car",
    "a red robot",
    "a purple apple",
    "a blue boat",
    "a green tree",
)
COMMAND = str(Path(sys.executable).parent / "sjc-fast")
#: Steps of an object on a GPU, where only the step is timed.
STEPS = 10_000


@dataclass
class Options:
    """What is measured on this machine."""

    together: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of objects that advance together."""
    name: str = "batch"


def main(options: Options) -> None:
    """Measure, print a table, write JSON."""
    result: dict[str, Any] = {"prompts": PROMPTS, "steps": step_rows(options.together)}
    for row in result["steps"]:
        print(f"{row['together']:3} together: {row['milliseconds_an_object']:.1f} ms an object's step", flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        rows.append(whole_runs(Path(scratch) / "train", None))
        for together in options.together:
            rows.append(whole_runs(Path(scratch) / str(together), together))
            alone = rows[0]["seconds"] / rows[-1]["seconds"]
            print(f"{rows[-1]['how']:20} {rows[-1]['objects_an_hour']:.0f} objects an hour, {alone:.2f} x", flush=True)
    print(save(options.name, result | {"runs": rows}))


def whole_runs(folder: Path, together: int | None) -> dict[str, Any]:
    """All prompts by the real command: `train` for each if `together` is None, else `batch`."""
    started = time.monotonic()
    if together is None:
        for i, prompt in enumerate(PROMPTS):
            _run("train", "--prompt", prompt, "--output", folder / str(i))
        fields = [folder / str(i) for i in range(len(PROMPTS))]
    else:
        prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
        _run("batch", *prompts, "--output", folder, "--together", together)
        fields = [folder / f"{prompt.replace(' ', '-')}-s0" for prompt in PROMPTS]
    seconds = time.monotonic() - started
    judged = [
        judge(VoxelField.load(f / "field.safetensors"), p).figures() for f, p in zip(fields, PROMPTS, strict=True)
    ]
    return {
        "how": "train" if together is None else f"batch, {together} together",
        "together": together,
        "seconds": seconds,
        "objects_an_hour": len(PROMPTS) / seconds * 3600,
        "mean": mean(judged),
        "objects": judged,
    }


def _run(*arguments: Any) -> None:
    command = [COMMAND, *map(str, arguments), "--device", "cpu"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def step_rows(numbers: tuple[int, ...], steps: int = 20, rounds: int = 3) -> list[dict[str, Any]]:
    """The step alone, and the network in it, in turn: medians in milliseconds an object."""
    model = load_score_model("shapes", device="cpu")
    base = merge(default_config("shapes"), {"steps": rounds * (steps + 3)})
    stacks: dict[int, Stack | Trainer] = {}
    for number in numbers:
        trainers = [Trainer(merge(base, {"prompt": p}), model, release=False) for p in PROMPTS[:number]]
        stacks[number] = Stack(trainers, base.steps) if number > 1 else trainers[0]
    taken: dict[int, list[float]] = {number: [] for number in numbers}
    asked: dict[int, list[float]] = {number: [] for number in numbers}
    denoise, spent = model.denoise, [0.0]

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        answer = denoise(*arguments)
        spent.append(time.perf_counter() - began)
        return answer

    model.denoise = timed
    for _ in range(rounds):
        for number, stack in stacks.items():
            for i in range(steps + 3):
                began = time.perf_counter()
                stack.step()
                if i >= 3:
                    taken[number].append((time.perf_counter() - began) / number * 1e3)
                    asked[number].append(spent[-1] / number * 1e3)
    return [
        {
            "together": number,
            "milliseconds_an_object": statistics.median(taken[number]),
            "network_milliseconds_an_object": statistics.median(asked[number]),
        }
        for number in numbers
    ]


def together(s: Any) -> list[dict[str, Any]]:
    """A section of `benchmarks.gpu`: the step of B objects with Stable Diffusion's shape, as one CUDA graph."""
    from .steps import configuration, stand_in, unet_flops

    found: list[dict[str, Any]] = []
    model = stand_in(s)
    for number in (2,) if s.small else (1, 2, 4, 8, 16):
        if s.late:
            found.append({"together": number, "note": "out of time"})
            continue
        try:
            found.append(_stack_row(s, model, configuration(s), number, unet_flops("tiny" if s.small else "1.5")))
        except Exception:  # the other rows still count
            found.append({"together": number, "passes": False, "error": traceback.format_exc()[-2000:]})
        s.result["batch"] = found
        s.save()
    return found


def _stack_row(s: Any, model: Any, config: Any, number: int, flops: int) -> dict[str, Any]:
    """One number of objects: step, share of the network's arithmetic in the peak, memory, and a place taken anew."""
    cuda = s.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    made = (merge(config, {"prompt": "it", "seed": i}) for i in range(number + 1))
    *trainers, next_one = (Trainer(each, model, s.device, release=False) for each in made)
    stack = Stack(trainers, config.steps)
    for _ in range(graphs.WARM_UP + 1):
        stack.step()
    row: dict[str, Any] = {"together": number, "captured": stack._replay is not None}
    row["step_seconds"] = s.clock.loops(stack.step, 1 if s.small else 20)
    step = statistics.median(row["step_seconds"])
    replay = stack._replay
    stack.take(number - 1)
    stack.put(number - 1, next_one)
    stack.step()
    row["same_graph_after_another_took_a_place"] = stack._replay is replay
    row["passes"] = stack.trainers[-1].is_finite() and (stack._replay is replay) and (row["captured"] or not cuda)
    row["objects_an_hour_at_10000_steps"] = number / step / STEPS * 3600
    row["network_flops"] = 2 * number * flops
    rate = s.result.get("rates", {}).get("100", {}).get("matmul_flops")
    if rate and cuda:
        row["network_share_of_matmul_peak"] = row["network_flops"] / step / rate
    if cuda:
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    return row


if __name__ == "__main__":
    main(tyro.cli(Options))
