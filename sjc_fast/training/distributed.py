"""One object on several devices, a process each: every one scores a share of a step's noised copies.

All processes hold the whole object and render all views. Each asks the network about its share, the updates are summed
over the processes, and every one goes on with the same update: a small picture for each view travels, not the gradient
of the grids. The march's backward pass sums in an order of its own or in fixed point, so that the objects stay the same
to the last bit.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Generator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from ..errors import LostProcessError, UserError, setting
from ..paas import ESTIMATORS
from .schedule import Row
from .scoring import Scorer

dist: Any = torch.distributed  # whose types say little
#: Steps from one time to the next that the processes agree whether to stop, and such times between comparisons.
AGREE, COMPARE = 8, 32
#: How long a process waits for another one: a person may pause a run.
PATIENCE = timedelta(days=7)


class Ranks:
    """The processes of a run, of which this is one. They must have been introduced to each other.

    Args:
        device: of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self._hosts: Any = dist.new_group(backend="gloo", timeout=PATIENCE)  # what the hosts agree on

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def sum(self, x: Tensor) -> None:
        """Replace a tensor by the sum of everybody's, the same bits for all."""
        with lost_processes():
            dist.all_reduce(x)

    def agree(self, position: int, stop: bool, log: Tensor) -> bool:
        """Whether anybody wants to stop; asked of everybody every few steps, else no.

        Args:
            position: steps taken.
            stop: whether this process wants to.
            log: what the steps measured, whose last number is the sum of the object.

        Raises:
            UserError: the objects of the processes differ.
            LostProcessError: a process has ended.
        """
        if position % AGREE:
            return False
        said = torch.zeros(1 + self.count, dtype=torch.float64)
        said[0] = stop
        if position % (AGREE * COMPARE) == 0:
            said[1 + self.rank] = float(log[position - 1, -1])
        with lost_processes():
            dist.all_reduce(said, group=self._hosts)
        sums = said[1:]
        if bool(sums.isfinite().all()) and not bool((sums == sums[0]).all()):
            raise UserError(f"the processes have different objects after step {position}: are the devices of one kind?")
        return bool(said[0])


class SharedScorer(Scorer):
    """Scores this process's share of the views and draws, and adds what the others score.

    Args:
        scorer: of all of them; it is changed to score the share.
        ranks: the processes.
        views: of a step.

    Raises:
        UserError: the work cannot be divided evenly.
    """

    def __init__(self, scorer: Scorer, ranks: Ranks, views: int) -> None:
        s = scorer.settings
        self.scorer, self.ranks, self.fused = scorer, ranks, scorer.fused
        self.model, self.conditions, self.settings, self.seeds = scorer.model, scorer.conditions, s, scorer.seeds
        together = getattr(scorer.model, "views", 1)  # that the network wants in one batch
        by_views = math.gcd(ranks.count, views // together)
        self.by_draws = ranks.count // by_views
        draws = s.noise_samples // 2 if s.antithetic else s.noise_samples
        if draws % self.by_draws:
            kind = "pairs of noise samples" if s.antithetic else "noise samples"
            raise UserError(
                f"{ranks.count} devices cannot share {views} view{'s' * (views != 1)} of {draws} {kind} evenly: choose "
                f"{setting('views')} and {setting('noise_samples')} so that each has as many"
            )
        if self.by_draws > 1 and ESTIMATORS[s.estimator] == "auto" and not s.antithetic:
            name = setting("score.estimator")
            raise UserError(f"{name} auto looks at all noise samples of a view: give {ranks.count} devices more views")
        place, draw = divmod(ranks.rank, self.by_draws)
        count = views // by_views
        self.views = slice(place * count, (place + 1) * count)
        scorer.settings = replace(s, noise_samples=s.noise_samples // self.by_draws)
        scorer.share = (place * count, draw * (draws // self.by_draws), draws)

    @torch.no_grad()
    def __call__(self, x: Tensor, row: Row) -> Tensor:
        """The update of all views, with everybody's draws."""
        update = torch.zeros_like(x)
        update[self.views] = self.scorer(x[self.views], row.of_views(self.views)) / self.by_draws
        self.ranks.sum(update)
        return update


@contextlib.contextmanager
def lost_processes() -> Generator[None, None, None]:
    """Raise `LostProcessError` where PyTorch says in its own words that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(w in str(error) for w in ("gloo", "onnection", "peer")):
            raise LostProcessError("another process of this run has ended") from None
        raise


@contextlib.contextmanager
def introduced(device: str) -> Generator[Ranks | None, None, None]:
    """The processes that torchrun or `sjc-fast train --devices` has started; None where this is the only one.

    Args:
        device: what the run is asked to use; without an index, each process takes the device of its number.

    Raises:
        UserError: they cannot find each other, or there are fewer devices.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield None
        return
    chosen = device_of_rank(device)
    cuda = chosen.type == "cuda"
    if cuda:
        torch.cuda.set_device(chosen)
    try:
        options: dict[str, Any] = {"device_id": chosen} if cuda else {}
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE, **options)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {count} processes do not find each other: {str(error).splitlines()[0]}") from None
    try:
        yield Ranks(chosen)
    finally:
        with contextlib.suppress(RuntimeError):  # whoever ends last has nobody to take leave of
            dist.destroy_process_group()


def device_of_rank(device: str) -> torch.device:
    """The device of this process.

    Raises:
        UserError: there is none for it.
    """
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device not in ("auto", "cuda"):
        return torch.device(device)
    if local >= torch.cuda.device_count():
        raise UserError(f"process {local} has no device: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return torch.device("cuda", local)
