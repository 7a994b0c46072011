"""`sjc-fast batch`: a list of prompts becomes as many objects, several at a time."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from ..errors import UserError, setting
from ..farm.driver import Farm, FarmSettings, connect
from ..runs.batch import DONE, FAILED, SKIPPED, STOPPED, Batch, Keeper, ListSource, Outcome
from ..runs.batch_console import BatchConsole
from ..runs.claims import Claims
from ..runs.console import say
from ..runs.elsewhere import RemoteKeeper
from ..runs.jobs import Job, changes_of, make_jobs, parse_seeds, parse_sweep, read_rows
from ..runs.recipes import find_recipe
from ..runs.run import stop_requests
from ..runs.settings import default_config, default_model, limit_memory, pick_device
from ..storage.files import prepare
from ..storage.remote import RemoteFolder, is_remote
from ..training.config import Range, TrainConfig, check_ranges, merge
from . import option_value, parse


@dataclass
class BatchOptions(TrainConfig):
    """Many objects: a list of prompts, or --prompt several times; every other option is for all of them."""

    prompts: Annotated[Path | None, tyro.conf.Positional] = None
    """A text file with a prompt a line; or .csv or .jsonl, with a column "prompt" and one for any other setting."""
    seeds: str | None = None
    """Make every prompt with each of these seeds, e.g. 0..7 or 1,5,9."""
    sweep: tuple[str, ...] = ()
    """Make every prompt with each of these values, e.g. optimizer.lr=0.1,0.2; of several, with every combination."""
    together: str = "auto"
    """Objects that advance in one step; "auto" finds out how many pay and fit into memory."""
    deterministic: bool = False
    """On a CPU: each object to the same bits as alone. Slower, for the network is called once an object."""
    shard: str | None = None
    """I/N: this is process I of N (from 0) with the same list and the same --output, a folder that all of them see."""
    farm: str | None = None
    """Make them on a Ray cluster: its head's HOST:PORT, or "auto" for the one that runs on this machine, else a new
    one here."""
    gpus_per_worker: Annotated[float | None, Range(0, 64)] = None
    """With --farm: of the cluster's GPUs, for each worker; parts of one too. Default 1, and 0 in a cluster without."""
    cpus_per_worker: Annotated[float | None, Range(0, 1024)] = None
    """With --farm: of its CPU cores, for each worker; default 1 beside a GPU, else 2."""


def main(arguments: list[str]) -> None:
    """Read the list, make the objects, and say what came out. Exit code 1 if some failed."""
    options, prompts, output = read_options(arguments)
    parse_together(options.together)
    check_ranges(options)
    if options.shard is not None:
        parse_shard(options.shard)
        if options.farm is not None:
            raise UserError(f"{setting('shard')} and {setting('farm')} are two ways to share the work: give one")
    with contextlib.ExitStack() as contexts:
        remote, here = None, Path(output).absolute()
        if is_remote(output):
            here = Path(contexts.enter_context(tempfile.TemporaryDirectory(prefix="sjc-fast-")))
        jobs = list_jobs(options, prompts, here)
        if is_remote(output):
            remote = RemoteFolder(output)
            remote.check()
        else:
            prepare(here / "gallery.html")
        make = make_here if options.farm is None else make_on_farm
        if options.farm is not None:
            connect(options.farm)
        say(f"{len(jobs)} object{'s' * (len(jobs) != 1)} in {output}")
        started = time.monotonic()
        console = BatchConsole(jobs, here, remote, shared=options.shard is not None)
        contexts.callback(console.close)
        outcomes, stopped = make(options, jobs, output if remote else str(here), console, remote)
    conclude(outcomes, time.monotonic() - started, stopped, arguments)


def make_here(
    options: BatchOptions, jobs: list[Job], output: str, console: BatchConsole, remote: RemoteFolder | None
) -> tuple[list[Outcome], bool]:
    """Make the objects in this process; how they ended, and whether they were stopped."""
    torch.use_deterministic_algorithms(options.deterministic)
    limit_memory(options.memory_limit, pick_device(options.device))
    keeper = Keeper() if remote is None else RemoteKeeper(remote)
    with source_of(options.shard, jobs, None if remote else Path(output)) as source:
        batch = Batch(source, parse_together(options.together), console, keeper)
        batch.run()
    return batch.outcomes, batch.stopped


def make_on_farm(
    options: BatchOptions, jobs: list[Job], output: str, console: BatchConsole, _remote: RemoteFolder | None
) -> tuple[list[Outcome], bool]:
    """Make the objects on a Ray cluster."""
    assert options.farm is not None
    ray = connect(options.farm)
    gpus, cpus = options.gpus_per_worker, options.cpus_per_worker
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) and options.device != "cpu" else 0.0
    cpus = (1.0 if gpus else 2.0) if cpus is None else cpus
    settings = FarmSettings(options.farm, output, parse_together(options.together), options.deterministic, gpus, cpus)
    with stop_requests() as stop:
        return Farm(jobs, settings, console, ray).run(stop), bool(stop)


def conclude(outcomes: list[Outcome], seconds: float, stopped: bool, arguments: list[str]) -> None:
    """Say what became of all objects, and leave with the code that says so."""
    count = {status: sum(o.status == status for o in outcomes) for status in (DONE, SKIPPED, FAILED, STOPPED)}
    parts = [f"{count[DONE]} done in {seconds:.0f} s"]
    parts += [
        f"{count[status]} {words}" for status, words in ((SKIPPED, "done before"), (FAILED, "failed")) if count[status]
    ]
    say(", ".join(parts))
    for outcome in outcomes:
        if outcome.status == FAILED:
            print(f"sjc-fast: {outcome.job.name}: {outcome.message}", file=sys.stderr)
    if stopped:
        print(f"stopped; continue with: sjc-fast batch {shlex.join(arguments)}", file=sys.stderr)
        sys.exit(130)
    if count[FAILED]:
        sys.exit(1)


@contextlib.contextmanager
def source_of(shard: str | None, jobs: list[Job], output: Path | None) -> Iterator[ListSource]:
    """The objects of this process: all of them; or of a shard, its own first and then what others have not begun.

    Where the output is a URL, there is nothing to claim them with, and a shard makes its own only.
    """
    if shard is None:
        yield ListSource(jobs)
        return
    which, count = parse_shard(shard)
    mine = jobs[which::count]
    if output is None:
        yield ListSource(mine)
        return
    others = [job for i, job in enumerate(jobs) if i % count != which]
    with Claims(output) as claims:
        yield ListSource(mine + others, claims.claim, claims.release)


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N`` with 0 <= I < N.

    Raises:
        UserError: something else.
    """
    which, _, count = text.partition("/")
    if not (which.isdigit() and count.isdigit() and int(which) < int(count)):
        raise UserError(f"{setting('shard')} {text}: give I/N, with I from 0 to N - 1")
    return int(which), int(count)


def parse_together(text: str) -> int | None:
    """A number of objects; None for "auto".

    Raises:
        UserError: something else.
    """
    if text == "auto":
        return None
    if not (text.isdigit() and 1 <= int(text) <= 1024):
        raise UserError(f"{setting('together')} {text}: give auto, or a number between 1 and 1024")
    return int(text)


def read_options(arguments: list[str]) -> tuple[BatchOptions, list[str], str]:
    """What a command line asks for: the options, the prompts that it names, and where the objects go."""
    prompts, rest = take_values(arguments, "prompt")
    outputs, rest = take_values(rest, "output")  # it may be a URL, which a path is not
    for name in ("resume", "seed"):
        if option_value(rest, name) is not None:
            other = {"resume": "running the same command again goes on", "seed": f"give {setting('seeds')}"}[name]
            raise UserError(f"{setting(name)} is an option of train: {other}")
    model = option_value(rest, "model") or default_model(option_value(rest, "device") or "auto")
    own = default_config(model, option_value(rest, "preset") or "model")
    options = replace(parse(BatchOptions, rest, "batch", BatchOptions(**vars(own))), model=own.model)
    return options, prompts, (outputs or ["runs/batch"])[-1]


def take_values(arguments: list[str], name: str) -> tuple[list[str], list[str]]:
    """All values of --name VALUE and --name=VALUE, and the other arguments."""
    found: list[str] = []
    rest: list[str] = []
    coming = iter(arguments)
    for argument in coming:
        if argument == f"--{name}":
            value = next(coming, None)
            if value is None:
                raise UserError(f"--{name} wants a value; see sjc-fast batch --help")
            found.append(value)
        elif argument.startswith(f"--{name}="):
            found.append(argument.split("=", 1)[1])
        else:
            rest.append(argument)
    return found, rest


def list_jobs(options: BatchOptions, prompts: list[str], output: Path) -> list[Job]:
    """The objects that the options and the list name, in order.

    Raises:
        UserError: none, or one that cannot be.
    """
    rows = read_rows(options.prompts) if options.prompts else []
    rows += [{"prompt": prompt} for prompt in prompts]
    if not rows:
        raise UserError(
            'batch: name a file with a prompt a line, or give --prompt "a red mushroom", several if you like'
        )
    if options.seeds:
        rows = [row | {"seed": seed} for row in rows for seed in parse_seeds(options.seeds)]
    rows = [row | combination for row in rows for combination in parse_sweep(options.sweep)]
    return make_jobs(rows, base_of(options), output)


def base_of(options: BatchOptions) -> Callable[[dict[str, Any]], TrainConfig]:
    """From a row to what it changes: the settings that suit its model or recipe, and what the command line says."""
    asked = TrainConfig(**{f.name: getattr(options, f.name) for f in fields(TrainConfig)})
    usual = default_config(options.model, options.preset)
    explicit = changes_of(asked, usual)

    def base(row: dict[str, Any]) -> TrainConfig:
        model, recipe = str(row.get("model") or options.model), row.get("recipe")
        if recipe is None:
            config = default_config(model, str(row.get("preset") or options.preset))
        else:
            config = merge(default_config(model, "paper"), find_recipe(str(recipe)).changes(), f"recipe {recipe}")
        config = merge(config, explicit, "command line")
        return replace(config, model=default_config(model).model)

    return base
