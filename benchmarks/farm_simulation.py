"""A farm on paper: objects an hour, and work lost to machines that fail, for 8 to 10,000 GPUs.

``python -m benchmarks.farm_simulation`` plays the farm as events: workers that start, load a model, make objects, keep
checkpoints and fail at random; a driver that hands out and hears of one thing at a time; storage of a given bandwidth.
What a driver takes for an object and a shard for a claim is measured here, on this machine; step times and rates of
failure are assumptions that the JSON names. It writes results/farm_simulation.json. None of it was measured on a GPU.
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from sjc_fast.farm.worker import pack
from sjc_fast.runs.claims import Claims
from sjc_fast.runs.jobs import make_jobs
from sjc_fast.training.config import TrainConfig, merge

from .report import save


@dataclass(frozen=True)
class Assumed:
    """A farm. Times in seconds, sizes in bytes."""

    gpus: int = 8
    gpus_a_node: int = 8
    together: int = 8
    object_seconds: float = 40.0  # of a GPU, an object: the target of 90 an hour
    start: float = 90.0  # a worker, until its first step: container, imports, model, capture
    checkpoint_every: float = 60.0
    checkpoint_bytes: float = 80e6  # a field of 100^3 with four channels, and two moments
    result_bytes: float = 30e6
    storage_bytes_per_second: float = 10e9  # all together
    driver_seconds: float = 0.001  # to hand an object out and hear of its end
    notice: float = 15.0  # until a lost machine is noticed
    replacement: float = 300.0  # until there is another machine
    failures_an_hour_a_thousand_nodes: float = 1.0
    hours: float = 8.0


def simulate(farm: Assumed, seed: int = 0) -> dict[str, float]:
    """One play: objects an hour, busy shares, and seconds of GPU work lost an hour."""
    draw = random.Random(seed)
    nodes = max(1, farm.gpus // farm.gpus_a_node)
    end, rate = farm.hours * 3600, farm.failures_an_hour_a_thousand_nodes / 1000 / 3600
    # Of a batch: what its GPU takes, and its share of storage, which all share evenly.
    making = farm.together * farm.object_seconds
    checkpoints = making / farm.checkpoint_every * farm.together * farm.checkpoint_bytes
    written = checkpoints + farm.together * farm.result_bytes
    storage = (
        farm.gpus * written / making / farm.storage_bytes_per_second
    )  # share of it that is busy; above 1 it limits
    slower = max(1.0, storage)
    order = itertools.count()
    events: list[tuple[float, int, str, int]] = []
    life = [0] * nodes  # how often a node was replaced: events of a former one do not count
    epoch: dict[int, int] = {}

    def push(when: float, what: str, number: int) -> None:
        heapq.heappush(events, (when, next(order), what, number))

    for node in range(nodes):
        if rate:
            push(draw.expovariate(rate), "fails", node)
        for gpu in range(farm.gpus_a_node if farm.gpus >= farm.gpus_a_node else farm.gpus):
            worker = node * farm.gpus_a_node + gpu
            epoch[worker] = 0
            push(farm.start * (1 + 0.2 * draw.random()), "free", worker)
    made, lost, driver_free, driver_busy, failures = 0, 0.0, 0.0, 0.0, 0
    began: dict[int, float] = {}
    while events and events[0][0] < end:
        now, _, what, number = heapq.heappop(events)
        if what == "fails":
            failures += 1
            life[number] += 1
            back = now + farm.notice + farm.replacement
            for gpu in range(farm.gpus_a_node):
                worker = number * farm.gpus_a_node + gpu
                if worker in epoch:
                    epoch[worker] = life[number]
                    if worker in began:
                        lost += min(now - began.pop(worker), draw.uniform(0, farm.checkpoint_every) * slower)
                    push(back + farm.start, f"free {life[number]}", worker)
            push(back + draw.expovariate(rate), "fails", number)
            continue
        kind, _, when = what.partition(" ")
        if int(when or 0) != epoch[number]:
            continue
        if kind == "done":
            made += farm.together
            began.pop(number, None)
        work = farm.together * farm.driver_seconds
        driver_free = max(now, driver_free) + work
        driver_busy += work
        began[number] = driver_free
        push(driver_free + making * slower, f"done {epoch[number]}", number)
    return {
        "objects_an_hour": made / farm.hours,
        "of_the_gpus": made * farm.object_seconds / (farm.gpus * end),
        "driver_busy": driver_busy / end,
        "storage_busy": storage,
        "failures": failures,
        "lost_gpu_seconds_an_hour": lost / farm.hours,
        "lost_share": lost / (farm.gpus * end),
    }


def measured_here(count: int = 2000) -> dict[str, float]:
    """What the driver takes for an object besides Ray, and a shard for a claim on this machine's disk, in seconds."""
    base = merge(TrainConfig(), {"prompt": "x"})
    with tempfile.TemporaryDirectory() as scratch:
        jobs = make_jobs(({"prompt": f"object {i}"} for i in range(count)), lambda _: base, Path(scratch))
        began = time.perf_counter()
        for job in jobs:
            pack(job)
        packing = (time.perf_counter() - began) / count
        with Claims(Path(scratch)) as claims:
            began = time.perf_counter()
            for job in jobs:
                claims.claim(job)
            claiming = (time.perf_counter() - began) / count
    return {"pack_a_job": packing, "claim_an_object": claiming}


def calls_by_ray(count: int = 500) -> float | None:
    """Seconds for a task to an actor and its answer, one after the other; None without Ray."""
    try:
        import ray
    except ImportError:
        return None
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=40)

    class Echo:
        def say(self, x: Any) -> Any:
            return x

    actor: Any = ray.remote(Echo).remote()
    ray.get(actor.say.remote({}))
    taken: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        ray.get(actor.say.remote({"name": "x" * 2000}))
        taken.append(time.perf_counter() - began)
    ray.shutdown()
    return statistics.median(taken)


@dataclass
class Options:
    """What is played."""

    gpus: tuple[int, ...] = (8, 64, 512, 2048, 10_000)
    seeds: int = 5
    name: str = "farm_simulation"


def main(options: Options) -> None:
    """Play, print a table, write JSON."""
    here = measured_here()
    call = calls_by_ray()
    base = Assumed(driver_seconds=here["pack_a_job"] + (call or 0.001))
    rows: list[dict[str, Any]] = []
    for gpus in options.gpus:
        for rate in (0.0, 1.0, 10.0):
            farm = replace(base, gpus=gpus, failures_an_hour_a_thousand_nodes=rate)
            plays = [simulate(farm, seed) for seed in range(options.seeds)]
            means = {name: statistics.fmean(play[name] for play in plays) for name in plays[0]}
            rows.append({"gpus": gpus, "failures_an_hour_a_thousand_nodes": rate, **means})
            print(
                f"{gpus:6} GPUs, {rate:4.0f} failures: {means['objects_an_hour']:9.0f} objects an hour, "
                f"{means['of_the_gpus']:.1%} of the GPUs, driver {means['driver_busy']:.1%}, "
                f"storage {means['storage_busy']:.0%}, lost {means['lost_gpu_seconds_an_hour']:.0f} s an hour",
                flush=True,
            )
    result = {"assumed": asdict(base), "measured_here": here | {"ray_call": call}, "rows": rows}
    print(save(options.name, result))


if __name__ == "__main__":
    main(tyro.cli(Options))
