"""What a batch makes: a list of prompts and options becomes a configuration and a folder an object."""

from __future__ import annotations

import contextlib
import csv
import functools
import itertools
import json
import re
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, setting
from ..training.config import TrainConfig, Tree, digest, merge, to_dict
from .folder import RunFolder, words_of
from .journal import read_record
from .run import settle

#: Columns that are no settings of a run.
SPECIAL = ("recipe",)
#: What a row of a list may not decide for itself: where all objects of a batch go, and what they run on.
SHARED = ("output", "resume", "device")


@dataclass(frozen=True)
class Job:
    """An object to make."""

    name: str  # of its folder in the batch's
    config: TrainConfig  # its output is that folder

    @property
    def folder(self) -> RunFolder:
        assert self.config.output is not None
        return RunFolder(self.config.output)

    def is_done(self) -> bool:
        """Whether its folder holds a finished run, which says so after its last file."""
        return read_record(self.folder).get("status") == "finished"

    def is_started(self) -> bool:
        """Whether its folder holds a run."""
        return self.folder.config.exists()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a list: a prompt a line; or CSV or JSONL with the names of settings, at least "prompt" or "recipe".

    Raises:
        UserError: the file cannot be read, or a row of it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read: {why}") from None
    readers: dict[str, Callable[[str, Path], list[dict[str, Any]]]] = {".csv": _csv, ".jsonl": _jsonl}
    rows = readers.get(path.suffix.lower(), _lines)(text, path)
    if not rows:
        raise UserError(f"{path} names no prompt")
    return rows


def _lines(text: str, _path: Path) -> list[dict[str, Any]]:
    lines = (line.strip() for line in text.splitlines())
    return [{"prompt": line} for line in lines if line and not line.startswith("#")]


def _csv(text: str, path: Path) -> list[dict[str, Any]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    rows: list[dict[str, Any]] = []
    for row in reader:
        if None in row:
            raise UserError(f"{path}, line {reader.line_num}: more values than the header names")
        rows.append({k: v for k, v in row.items() if v not in (None, "")})
    return [row for row in rows if row]


def _jsonl(text: str, path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object, {{...}}")
        rows.append({str(k): v for k, v in row.items()})
    return rows


def parse_seeds(text: str) -> list[int]:
    """``0..7`` (both included) or ``1,5,9``, or both.

    Raises:
        UserError: something else.
    """
    found: list[int] = []
    for part in text.split(","):
        if not (match := re.fullmatch(r"\s*(\d{1,9})(?:\s*\.\.\s*(\d{1,9}))?\s*", part)):
            raise UserError(f"{setting('seeds')} {text!r}: give numbers such as 0..7 or 1,5,9")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high or high - low >= 10**6:
            raise UserError(f"{setting('seeds')} {text!r}: {low}..{high} is not a range of seeds")
        found += range(low, high + 1)
    return list(dict.fromkeys(found))


def parse_sweep(parts: Sequence[str]) -> list[dict[str, str]]:
    """``name=value,value`` each: every combination, as rows.

    Raises:
        UserError: something else.
    """
    lists: list[list[tuple[str, str]]] = []
    for part in parts:
        name, equals, values = part.partition("=")
        if not equals or not name or not all(values.split(",")):
            raise UserError(f"{setting('sweep')} {part!r}: give a setting and its values, such as optimizer.lr=0.1,0.2")
        lists.append([(name, value) for value in values.split(",")])
    return [dict(combination) for combination in itertools.product(*lists)]


def make_jobs(rows: Iterable[dict[str, Any]], base: Callable[[dict[str, Any]], TrainConfig], output: Path) -> list[Job]:
    """A job a row; rows that say the same become one.

    Args:
        rows: names of settings and their values.
        base: from a row to the configuration that its settings change (a row may name a model or a recipe).
        output: the batch's folder.

    Raises:
        UserError: a row that cannot be, with its number.
    """
    jobs: dict[str, Job] = {}
    for number, row in enumerate(rows, 1):
        try:
            config = change(base(row), {k: v for k, v in row.items() if k not in SPECIAL})
            config.check()
        except UserError as error:
            raise UserError(f"object {number}, {row.get('prompt', '')!r}: {error}") from None
        name = name_of(config, set(row) - {"prompt", "seed"})
        job = Job(name, replace(settle(config), output=output / name))
        if name in jobs and digest(jobs[name].config) != digest(job.config):
            raise UserError(f"object {number}, {config.prompt!r}: another one has the same name, {name}")
        jobs[name] = job
    return list(jobs.values())


def name_of(config: TrainConfig, others: set[str]) -> str:
    """A name that stays the same when the list changes: prompt and seed, and a fingerprint if a row sets more."""
    mark = f"-{digest(config)[:6]}" if others else ""
    return f"{words_of(config.prompt)}-s{config.seed}{mark}"


def change(config: TrainConfig, row: dict[str, Any]) -> TrainConfig:
    """A configuration with the settings of a row, whose names are those of the command line or of config.yaml.

    Raises:
        UserError: no such setting, or an impossible value.
    """
    for given, value in row.items():
        name = option_names().get(given.lstrip("-").replace("-", "_"))
        if name is None or name in SHARED:
            why = "all objects of a batch share it" if name else "no such setting"
            raise UserError(f"{given}: {why}")
        config = _set(config, name, value)
    return config


def _set(config: TrainConfig, name: str, value: Any) -> TrainConfig:
    """One setting, from text if need be: "0.2" is a number where a number is wanted, and words where words are."""
    choices = [value]
    if isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError):
            choices.append(yaml.safe_load(value))
        if isinstance(functools.reduce(getattr, name.split("."), config), tuple):
            choices.reverse()  # a list of one word is a list
    problem: UserError | None = None
    for choice in choices:
        tree: Any = choice
        for key in reversed(name.split(".")):
            tree = {key: tree}
        try:
            return merge(config, tree, "row")
        except UserError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def option_names() -> dict[str, str]:
    """Every setting of a run by the names that it has on the command line, dashes as underscores."""
    found: dict[str, str] = {}

    def walk(kind: type, prefix: str) -> None:
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            inner = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
            if is_dataclass(inner):
                walk(typing.cast(type, inner), f"{prefix}{name}.")
                continue
            found[f"{prefix}{name}"] = f"{prefix}{name}"
            for extra in getattr(hint, "__metadata__", ()):
                for other in getattr(extra, "aliases", None) or ():
                    found[other.lstrip("-").replace("-", "_")] = f"{prefix}{name}"

    walk(TrainConfig, "")
    return found


def changes_of(config: TrainConfig, usual: TrainConfig) -> Tree:
    """What differs from another configuration, as a partial tree."""

    def compare(one: Tree, two: Tree) -> Tree:
        found: Tree = {}
        for key, value in one.items():
            if isinstance(value, dict) and isinstance(two[key], dict):
                if inner := compare(typing.cast(Tree, value), two[key]):
                    found[key] = inner
            elif value != two[key]:
                found[key] = value
        return found

    return compare(to_dict(config), to_dict(usual))
