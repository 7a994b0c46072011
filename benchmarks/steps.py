"""Whole training steps: with a UNet of exactly Stable Diffusion 1.5's shape on a GPU, with the embedded model on a CPU.

``python -m benchmarks.steps`` writes the embedded model's rows to results/step.json; the GPU's belong to
``python -m benchmarks.gpu``, which calls the sections of this file.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sjc_fast import load_score_model
from sjc_fast.kernels.paas import Coefficients, perturb
from sjc_fast.rendering import render
from sjc_fast.runs.settings import PRESETS, default_config
from sjc_fast.scores.assembly import prepare
from sjc_fast.scores.attention import choose_attention, xformers_problem
from sjc_fast.scores.fused_unet import FusedUNet
from sjc_fast.training import graphs
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.losses import upstream_gradients
from sjc_fast.training.trainer import Readout, Trainer

from . import pipelines
from .report import save
from .session import Session
from .trace import draw, spans

SMALL_CASES = [(1, "plain", "sdpa"), (1, "graph", "sdpa"), (2, "compiled", "sdpa")]
ROWS = 2000  # steps of a schedule that is measured: more than are taken


def stand_in(s: Session, attention: str = "sdpa", fused: bool = True, compiled: bool = False) -> pipelines.StandIn:
    """The model of a session: of Stable Diffusion 1.5's shape in half precision, or tiny."""
    dtype = torch.float32 if s.small else torch.float16
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # made as the loader makes it: no copy in float32 leaves holes in memory
    try:
        with torch.device(s.device):
            unet = pipelines.unet("tiny" if s.small else "1.5")
    finally:
        torch.set_default_dtype(usual)
    choice = choose_attention(unet, attention, s.device, dtype)
    if compiled and s.small:
        unet.compile(dynamic=False, backend="eager")
    network = prepare(unet, s.device, fused=fused, compiled=compiled and not s.small)
    model = pipelines.StandIn(network, s.device, dtype)
    model.attention = choice
    return model


def configuration(s: Session, samples: int = 1, **changes: Any) -> TrainConfig:
    """The paper's settings; at toy sizes, a toy field."""
    tree: dict[str, Any] = {"prompt": "it", "steps": ROWS, "noise_samples": samples, "backend": "triton"}
    if s.small:
        tree |= {"steps": 40, "size": 8, "field": {"resolution": 5}}
    return merge(merge(TrainConfig(), PRESETS["paper"]), tree | changes)


@functools.cache
def unet_flops(shape: str) -> int:
    """Floating-point operations of the UNet on one input, counted by PyTorch from the shapes."""
    with torch.device("meta"):
        unet, size = pipelines.unet(shape), pipelines.SHAPES[shape]["unet"]
        x = torch.empty(1, 4, size["sample_size"], size["sample_size"])
        text = torch.empty(1, 77, size["cross_attention_dim"])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(x, torch.zeros(1), text)
    return counter.get_total_flops()


def warmed(s: Session, model: pipelines.StandIn, samples: int, graph: bool) -> Trainer:
    """A run that has taken its warm-up and one step more: the first replay, if it can have one."""
    run = Trainer(configuration(s, samples, graph=graph), model, s.device)
    for _ in range(graphs.WARM_UP + 1):
        run.step()
    s.clock.wait()
    return run


def replays(s: Session) -> dict[str, Any]:
    """The step of Stable Diffusion's shape captured once and replayed a hundred times, and what memory it holds."""
    _fresh(s)
    run = warmed(s, stand_in(s), 1, graph=True)
    found: dict[str, Any] = {"captured": run._replay is not None}
    if s.device.type == "cuda":
        found["reserved_gb"] = _reserved(s) / 1e9
        torch.cuda.empty_cache()
        found["reserved_after_capture_gb"] = (torch.cuda.memory_reserved() - s.clock.flush.nbytes) / 1e9
    taken = s.clock.loops(run.step, 1 if s.small else 20)  # five replays each
    found |= {"step_ms": 1e3 * median(taken), "step_seconds": taken, "one_step": one_step_apart(run)}
    passes = run.is_finite() and found["one_step"]["metrics"] < 1e-3 and found["one_step"]["field"] < 0.02
    return found | {"passes": bool(passes and (found["captured"] or s.device.type != "cuda"))}


@torch.no_grad()
def network(s: Session) -> dict[str, Any]:
    """The network called with fused kernels against diffusers' own call: the difference, and the time of each."""
    model = stand_in(s, fused=False)
    dtype, size = model.dtype, model.network.config.sample_size
    x = torch.randn(2, model.channels, size, size, device=s.device).to(dtype, memory_format=torch.channels_last)
    inputs = (x, torch.tensor([20.0, 700.0], device=s.device), model.encode(["a", "b"]).to(dtype))
    with model.attention.active():
        calls = {"fused": functools.partial(FusedUNet(model.network), *inputs),
                 "diffusers": functools.partial(model.network, *inputs, return_dict=False)}  # fmt: skip
        ours, theirs = (call()[0].float() for call in calls.values())
        found: dict[str, Any] = {"difference": float((ours - theirs).norm() / theirs.norm())}
        limit = 1e-5 if dtype == torch.float32 else 1e-2  # roundings of half precision in some hundred layers
        found |= {"limit": limit, "passes": found["difference"] < limit}
        repeats = 1 if s.small else 20
        return found | {f"{name}_seconds": s.clock.samples(call, repeats) for name, call in calls.items()}


def step_times(s: Session) -> list[dict[str, Any]]:
    """Steps by noise samples, mode and attention, most important first, beside the plain loop of the same run."""
    found: list[dict[str, Any]] = []
    cases = [
        (1, "plain", "sdpa"),
        (1, "graph", "sdpa"),
        (1, "unfused", "sdpa"),
        (8, "graph", "sdpa"),
        (1, "eager", "sdpa"),
        (1, "compiled", "sdpa"),
    ]
    cases += [(4, "graph", "sdpa"), (16, "graph", "sdpa"), (1, "graph", "xformers"), (8, "compiled", "sdpa")]
    cases += [(8, "unfused", "sdpa")]
    cases += [(8, "graph", "xformers"), (8, "eager", "sdpa")]
    cases += [(samples, "graph", kind) for samples in (1, 8) for kind in ("cudnn", "flash", "efficient")]
    for samples, mode, attention in SMALL_CASES if s.small else cases:
        case = {"samples": samples, "mode": mode, "attention": attention}
        if s.left < (120 if mode == "compiled" else 0):
            found.append(case | {"note": "out of time"})
            continue
        if attention == "xformers" and "not installed" in (xformers_problem() or ""):
            found.append(case | {"note": "xformers is not there"})
            continue
        try:
            found.append(plain_row(s) if mode == "plain" else step_row(s, samples, mode, attention))
        except Exception:  # the other rows still count
            found.append(case | {"passes": False, "error": traceback.format_exc()[-2000:]})
        s.result["steps"] = found
        s.save()
    return found


def step_row(s: Session, samples: int, mode: str, attention: str) -> dict[str, Any]:
    """One way to take a step: its start, its time, that of its parts, FLOP/s of the UNet, memory."""
    _fresh(s)
    model = stand_in(s, attention, fused=mode != "unfused", compiled=mode == "compiled")
    _fresh(s)
    began = time.perf_counter()
    run = warmed(s, model, samples, graph=mode != "eager")
    row: dict[str, Any] = {"samples": samples, "mode": mode, "attention": model.attention.name}
    row |= {"start_seconds": time.perf_counter() - began, "captured": run._replay is not None}
    repeats = 1 if s.small else 20
    row["step_seconds"] = s.clock.loops(run.step, repeats)
    row["host_seconds"] = _host_seconds(s, run)
    if s.device.type == "cuda":
        row["passes"] = row["captured"] == (mode != "eager")
        row["reserved_bytes"] = _reserved(s)
        torch.cuda.empty_cache()  # what the search for fast convolutions took
        row["reserved_after_capture_bytes"] = torch.cuda.memory_reserved() - s.clock.flush.nbytes
    if mode != "eager":
        parts = {name: s.clock.samples(part, repeats) for name, part in step_parts(run).items()}
        row["parts_seconds"] = parts
        row["other_seconds"] = median(row["step_seconds"]) - sum(median(p) for p in parts.values())
        row["unet_flops"] = 2 * samples * unet_flops("tiny" if s.small else "1.5")
        row["unet_flops_per_second"] = row["unet_flops"] / median(parts["unet"])
        rate = s.result.get("rates", {}).get("100", {}).get("matmul_flops")
        if rate:
            row["unet_share_of_matmul_peak"] = row["unet_flops_per_second"] / rate
    return row


def step_parts(run: Trainer) -> dict[str, Callable[[], Any]]:
    """What a step consists of, each on inputs as they are in the step."""
    step, row, scorer = run.train_step, run.schedule[0], run.train_step.scorer
    rendering, _ = step.render(row)
    options = {"noise_samples": run.config.noise_samples, "doubled": True, "dtype": run.model.dtype}
    numbers = Coefficients(*row.coefficients)
    batch = perturb(rendering.features, row.sigma, numbers.c_in, scorer.seed[0], row.step, **options)
    c_noise = numbers.c_noise.repeat_interleave(2 * run.config.noise_samples)
    text = scorer.conditions.prompts[:1].expand(len(batch), -1, -1).contiguous()
    update = torch.randn_like(rendering.features)
    upstream = upstream_gradients(update, rendering, row.loss_weights, step.settings.losses)

    def drawn() -> None:
        rendering, kept = step.render(row)
        step.chain(rendering, kept, upstream)

    return {
        "unet": lambda: run.model.predict(batch, c_noise, text),
        "rendering": drawn,
        "optimizer": lambda: step.optimize(row),
    }


def plain_row(s: Session) -> dict[str, Any]:
    """One noise sample by the loop that the authors wrote: autograd renderer, eager network, optimizer of PyTorch."""
    _fresh(s)
    model = stand_in(s, fused=False)
    unet = model.network.to(memory_format=torch.contiguous_format)
    run = Trainer(configuration(s, backend="reference"), model, s.device)
    field, optimizer = run.field, run.train_step.optimizer
    table, text = model.sigmas.to(s.device), model.encode(["", "it"]).to(model.dtype)

    def step() -> None:
        row = run.schedule[run.position]
        run.position += 1
        optimizer.zero_grad()
        view = render(field, row.cameras, run.size, backend="reference", beta=10.0, slots=row.slots)
        with torch.no_grad():
            x, sigma = view.features, row.sigma[0]
            noisy = x + sigma * torch.randn_like(x)
            scaled = (noisy / (1 + sigma**2).sqrt()).to(model.dtype)
            tick = (table - sigma).abs().argmin()
            said = unet(torch.cat([scaled, scaled]), tick, encoder_hidden_states=text).sample
            uncond, cond = (noisy - sigma * e for e in said.float().chunk(2))
            update = (uncond + 100.0 * (cond - uncond) - x) / sigma
        loss = row.loss_weights[0] * view.emptiness.sum()
        torch.autograd.backward([view.features, loss], [-update, None])
        optimizer.step()

    for _ in range(1 if s.small else 5):
        step()
    taken = s.clock.eager(step, 10)
    row: dict[str, Any] = {"samples": 1, "mode": "plain", "attention": "sdpa", "step_seconds": taken}
    if s.device.type == "cuda":
        row["reserved_bytes"] = _reserved(s)
    return row


def _fresh(s: Session) -> None:
    """Nothing of an earlier measurement is in memory, or counted (a compiled network refers to itself)."""
    torch._dynamo.reset()
    gc.collect()
    if s.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _reserved(s: Session) -> int:
    """The most bytes reserved since `_fresh`, without the clock's own buffer."""
    return torch.cuda.max_memory_reserved() - s.clock.flush.nbytes


def _host_seconds(s: Session, run: Trainer) -> float:
    """What the host spends on a step that it does not wait for."""
    taken = []
    for _ in range(1 if s.small else 20):
        s.clock.wait()  # with steps under way, the queue of launches would fill, and the host wait for the device
        began = time.perf_counter()
        run.step()
        taken.append(time.perf_counter() - began)
    s.clock.wait()
    return median(taken)


def step_checks(s: Session) -> dict[str, Any]:
    """A replayed run and an eager one measure the same and end at the same field; neither waits for the device."""
    model, count = stand_in(s), graphs.WARM_UP + 2 if s.small else 30
    runs = []
    for graph in (True, False):
        run = warmed(s, model, 2, graph)
        readout = Readout(run.log)
        if s.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            while run.position < count:
                run.step()
                readout.send(run.position)
        finally:
            if s.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        runs.append(run)
    one, two = runs
    differences = ((one.log - two.log)[:count].abs() / (1e-3 + two.log[:count].abs())).amax(0).tolist()
    apart = one_step_apart(one)
    passes = apart["metrics"] < 1e-3 and apart["field"] < 0.02 and one.is_finite()
    passes &= s.device.type != "cuda" or one._replay is not None
    # Over many steps the order of the gradients' sums, which is not fixed, tells: half precision and Adamax magnify it.
    return {"passes": bool(passes), "captured": one._replay is not None, "one_step": apart,
            "relative_differences_at_the_end": differences, "steps": count}  # fmt: skip


@torch.no_grad()
def one_step_apart(run: Trainer) -> dict[str, float]:
    """The next step, replayed, put back, and taken eagerly: relative difference of metrics, and the share of voxels
    whose density differs by more than a hundredth of the learning rate."""
    state = [*run.field.parameters(), run._counter]
    state += [x for kept in run.train_step.optimizer.state.values() for x in kept.values()]
    before, number = [x.clone() for x in state], run.position
    ends = []
    for step in (run._replay or run._advance, run._advance):
        for x, value in zip(state, before, strict=True):
            x.copy_(value)
        step()
        ends.append((run.log[number].clone(), run.field.density.clone()))
    (log, density), (eager_log, eager_density) = ends
    metrics = ((log - eager_log).abs() / (1e-3 + eager_log.abs())).max()
    moved = ((density - eager_density).abs() > 0.01 * run.config.optimizer.lr).float().mean()
    return {"metrics": float(metrics), "field": float(moved)}


def trace(s: Session) -> dict[str, Any]:
    """Where the device's time goes in two replayed steps, as numbers and as a picture."""
    run = Trainer(configuration(s), stand_in(s), s.device)
    for _ in range(1 if s.small else graphs.WARM_UP + 10):
        run.step()
    s.clock.wait()
    with torch.profiler.profile() as profiler:
        for _ in range(2):
            run.step()
        s.clock.wait()
    found = spans(profiler.events(), s.device.type)
    if not found:
        return {"note": "the profiler saw nothing"}
    draw(found, s.output.with_suffix(".png"))
    begin, end = min(f.start for f in found), max(f.end for f in found)
    busy = sum(f.end - f.start for f in found)
    by_kind = {k: sum(f.end - f.start for f in found if f.kind == k) / 2 for k in {f.kind for f in found}}
    return {"steps": 2, "microseconds": (end - begin) / 2, "busy_share": busy / (end - begin), "by_kind": by_kind,
            "picture": s.output.with_suffix(".png").name}  # fmt: skip


def end_to_end(s: Session) -> dict[str, Any]:
    """A whole `train` of 300 steps from a model folder of Stable Diffusion's shape, with cold and with warm caches."""
    shape, steps = ("tiny", 8) if s.small else ("1.5", 300)
    found: dict[str, Any] = {"steps": steps}
    with tempfile.TemporaryDirectory() as scratch:
        dtype = torch.float32 if s.small else torch.float16
        model = pipelines.stable_diffusion(Path(scratch) / "model", shape=shape, dtype=dtype)
        environment = os.environ | {"TRITON_CACHE_DIR": f"{scratch}/triton", "HF_HUB_OFFLINE": "1"}
        for state in ("cold",) if s.small else ("cold", "warm"):
            if s.left < 60:
                return found | {state: {"note": "out of time: not measured"}}
            command = [sys.executable, "-m", "benchmarks.steps", "--run", str(model), str(steps), f"{scratch}/{state}"]
            command += [str(time.time()), *(["small"] if s.small else [])]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, env=environment, timeout=max(60, s.left)
                )
                found[state] = json.loads(done.stdout.splitlines()[-1])
            except subprocess.TimeoutExpired:  # says nothing of the run before it
                found[state] = {"note": "out of time: stopped"}
                continue
            except (ValueError, IndexError):
                found[state] = {"error": done.stderr[-2000:]}
            found["passes"] = found.get("passes", True) and "error" not in found[state]
            s.result["end_to_end"] = found
            s.save()
    return found


def whole_run(model: str, steps: int, output: Path, began: float, small: bool) -> dict[str, Any]:
    """`train` in this process, and when its stages were reached, in seconds since the process was started."""
    from sjc_fast.runs.reporter import Reporter
    from sjc_fast.runs.run import run as train

    reached: dict[str, float] = {}

    class Stages(Reporter):
        def start(self, _trainer: Trainer, _folder: Path) -> None:
            reached["loaded"] = time.time() - began

        def step(self, position: int) -> None:
            if position in (graphs.WARM_UP + 1, steps):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                reached["replaying" if position < steps else "trained"] = time.time() - began

    config = merge(default_config(model, "paper"), {"prompt": "it", "steps": steps, "output": str(output)})
    if small:
        config = merge(config, {"size": 8, "field": {"resolution": 8}, "backend": "reference"})
        config = merge(config, {"log": {"turntable_frames": 2, "turntable_size": 32}})
    try:
        train(config, Stages())
    except Exception as error:  # what was reached before it still counts
        return reached | {"error": str(error)}
    return reached | {"written": time.time() - began}


def embedded_rows(count: int = 60) -> list[dict[str, Any]]:
    """The embedded model's step on the CPU, as `train` takes it: parts of the very steps that are timed."""
    config = merge(default_config("shapes"), {"prompt": "a red mushroom", "device": "cpu"})
    run = Trainer(config, load_score_model("shapes", "cpu"), "cpu")
    parts: dict[str, list[float]] = {}

    def timed(owner: Any, name: str, label: str) -> None:
        function = getattr(owner, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **options)
            parts.setdefault(label, []).append(time.perf_counter() - began)
            return result

        setattr(owner, name, wrapped)

    timed(run.model, "predict", "unet")
    for name, label in (("render", "rendering forward"), ("chain", "rendering backward"), ("optimize", "optimizer")):
        timed(run.train_step, name, label)
    timed(run, "step", "step")
    for _ in range(count):
        run.step()
    kept = {k: v[count // 6 :] for k, v in parts.items()}
    needed = [sum(x) for x in zip(kept["unet"], kept["rendering forward"], kept["rendering backward"], strict=True)]
    ratio = [whole / least for whole, least in zip(kept["step"], needed, strict=True)]
    return [{"samples": config.noise_samples, "mode": "eager", "device": "cpu", "backend": run.backend,
             "parts_seconds": kept, "step_over_unet_and_rendering": median(ratio)}]  # fmt: skip


def network_rows(count: int = 20) -> list[dict[str, Any]]:
    """The embedded model's network on the CPU in other layouts, precisions and forms: what `train` could use instead.

    Each row has the seconds until the first answer and those of later calls; the batch is that of a step.
    """
    model = load_score_model("shapes", "cpu")
    text = model.encode(["a red mushroom"] * 2)
    config = model.network.config
    x = torch.randn(2, config.out_channels, config.sample_size, config.sample_size)
    tick = torch.full((2,), 500)

    def ask(unet: Any, layout: torch.memory_format, dtype: torch.dtype = torch.float32) -> Callable[[], Any]:
        inputs = (x.to(dtype, memory_format=layout), tick, text.to(dtype))
        return lambda: unet(*inputs, return_dict=False)

    def frozen() -> Callable[[], Any]:
        inputs = (x.to(memory_format=torch.channels_last), tick, text)
        traced = torch.jit.trace(
            lambda a, b, c: model.network(a, b, c, return_dict=False)[0], inputs, check_trace=False
        )
        return lambda: traced(*inputs)

    def compiled() -> Callable[[], Any]:
        return ask(torch.compile(model.network, dynamic=False), torch.channels_last)

    last, plain = torch.channels_last, torch.contiguous_format
    cases = {
        "float32, channels last (used)": lambda: ask(model.network.to(memory_format=last), last),
        "float32, contiguous": lambda: ask(model.network.to(memory_format=plain), plain),
        "float32, traced": frozen,
        "float32, compiled": compiled,
        "bfloat16, channels last": lambda: ask(
            model.network.to(torch.bfloat16, memory_format=last), last, torch.bfloat16
        ),
    }
    rows = []
    for name, make in cases.items():
        model.network.to(torch.float32, memory_format=last)
        with torch.no_grad():
            began = time.perf_counter()
            call = make()
            call()
            first, taken = time.perf_counter() - began, []
            for _ in range(count):
                began = time.perf_counter()
                call()
                taken.append(time.perf_counter() - began)
        rows.append({"network": name, "first_seconds": first, "seconds": taken})
        print(f"{name:30} {1e3 * median(taken):8.2f} ms, first answer after {first:.1f} s", flush=True)
    return rows


def main(arguments: list[str]) -> None:
    """The embedded model's rows; or, with --run, one whole run for `end_to_end`."""
    if arguments[:1] == ["--run"]:
        model, steps, output, began, *small = arguments[1:]
        print(json.dumps(whole_run(model, int(steps), Path(output), float(began), bool(small))))
        return
    rows = embedded_rows()
    for row in rows:
        for name, taken in row["parts_seconds"].items():
            print(f"{name:20} {1e3 * median(taken):8.2f} ms")
        print(f"step over UNet and rendering: {row['step_over_unet_and_rendering']:.3f}")
    print(save("step", {"rows": rows, "networks": network_rows()}))


if __name__ == "__main__":
    main(sys.argv[1:])
