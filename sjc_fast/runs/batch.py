"""Many objects on one device: runs advance together, and each leaves the folder that it would have left alone."""

from __future__ import annotations

import functools
import gc
import logging
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..errors import UserError, setting
from ..scores.protocol import ScoreModel
from ..training.checkpoint import load_checkpoint
from ..training.config import TrainConfig, differences, load_yaml
from ..training.stack import Stack, Turns, can_stack, family, fits
from ..training.trainer import Trainer
from .attend import Attendant, Interrupted
from .jobs import Job
from .reporter import CompositeReporter, Reporter
from .run import load_model, make_folder, settle, stop_requests
from .settings import check_words, limit_memory, pick_device
from .together import Together
from .trackers import TensorBoardReporter

LOG = logging.getLogger(__name__)
#: How an object can end.
DONE, SKIPPED, FAILED, STOPPED = "done", "skipped", "failed", "stopped"


@dataclass(frozen=True)
class Outcome:
    """How an object ended."""

    job: Job
    status: str  # DONE, SKIPPED (it was done before), FAILED or STOPPED
    message: str = ""
    seconds: float = 0.0  # from its first step to its last file


class Source(Protocol):
    """Where the next object comes from."""

    def take(self, wanted: str | None) -> Job | None:
        """The next object, of a `family` if one is wanted; None if there is none left for now."""
        ...

    def left(self, wanted: str) -> int:
        """How many of a family `take` may still give."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """An object that was taken has ended."""
        ...


class ListSource:
    """Objects from a list, in its order.

    Args:
        jobs: the list.
        claim: takes an object for this process; False where another has it.
        release: gives it back when it has ended.
    """

    def __init__(
        self,
        jobs: list[Job],
        claim: Callable[[Job], bool] = lambda _: True,
        release: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self._jobs = [(job, family(job.config)) for job in jobs]
        self._claim, self._release = claim, release

    def take(self, wanted: str | None) -> Job | None:
        for i, (job, kind) in enumerate(self._jobs):
            if wanted in (None, kind) and self._claim(job):
                del self._jobs[i]
                return job
        return None

    def left(self, wanted: str) -> int:
        return sum(kind == wanted for _, kind in self._jobs)

    def ended(self, outcome: Outcome) -> None:
        self._release(outcome)


class Listener:
    """Hears what becomes of the objects. This one says nothing."""

    def announce(self, message: str) -> None:
        """Something about the batch."""

    def begun(self, job: Job, position: int) -> None:
        """An object takes its first step, or goes on after `position` of them."""

    def stepped(self, objects: int) -> None:
        """So many objects have taken a step."""

    def ended(self, outcome: Outcome) -> None:
        """An object is done, skipped, failed or stopped."""

    def reporter(self, job: Job) -> Reporter:  # noqa: ARG002
        """Who hears what happens in one object's run."""
        return Reporter()


class Keeper:
    """Where the folders of objects are kept, if that is not where they are made. Here it is."""

    def fetch(self, job: Job) -> None:
        """Bring what there is of an object to its folder.

        Raises:
            UserError: it cannot be read.
        """

    def saved(self, job: Job) -> None:
        """An object's folder has a new checkpoint.

        Raises:
            UserError: it cannot be kept.
        """

    def ended(self, job: Job) -> None:
        """An object's folder is as it will stay.

        Raises:
            UserError: it cannot be kept.
        """


class Models:
    """Score models by what is asked for: the last one stays loaded.

    Args:
        given: a loaded model, for whatever is asked for.
    """

    def __init__(self, given: ScoreModel | None = None) -> None:
        self._given, self._model = given, given
        self._loaded: tuple[Any, ...] | None = None
        self._refused: dict[tuple[Any, ...], str] = {}

    def get(self, config: TrainConfig, device: torch.device) -> ScoreModel:
        """The score model of a configuration.

        Raises:
            UserError: it cannot be loaded.
        """
        if self._given is not None:
            return self._given
        wanted = (config.model, config.precision, config.attention, config.compile, config.fuse, config.lora)
        wanted += (config.embeddings, config.quantize, device)
        if wanted in self._refused:
            raise UserError(self._refused[wanted])
        if wanted != self._loaded:
            self._model, self._loaded = None, None
            gc.collect()
            try:
                model = load_model(config, device)
                model.prepare_decoder()
            except UserError as error:
                self._refused[wanted] = str(error)
                raise
            self._model, self._loaded = model, wanted
        assert self._model is not None
        return self._model


class ObjectRun:
    """One object of a batch on its way: its trainer, and the attendant that keeps its folder.

    Args:
        job: what to make.
        model: the score model.
        device: where.
        batch: of which it is a part.
        beside: objects that share the device.

    Raises:
        UserError: it cannot be made or gone on with.
    """

    def __init__(self, job: Job, model: ScoreModel, device: torch.device, batch: Batch, beside: int) -> None:
        self.job, self.started, self._keeper = job, time.monotonic(), batch.keeper
        config = job.config
        if job.is_started():
            config = replace(config, resume=config.output)
        self.trainer = Trainer(config, model, device, release=False)
        if config.resume and job.folder.checkpoint.exists():
            self.trainer.restore(load_checkpoint(job.folder.checkpoint))
        folder = make_folder(config)
        loading = time.monotonic() - self.started
        heard = CompositeReporter([TensorBoardReporter(), batch.listener.reporter(job)])
        saved = functools.partial(self._keeper.saved, job)
        self.attendant = Attendant(self.trainer, folder, heard, loading, beside, saved)
        self.attendant.__enter__()

    @property
    def all_taken(self) -> bool:
        """Whether no step is left."""
        return self.trainer.position >= len(self.trainer.schedule)

    def end(self, error: BaseException | None = None) -> Outcome:
        """Close the folder's files, after an error if there was one."""
        seconds = time.monotonic() - self.started
        try:
            kind = None if error is None else type(error)
            self.attendant.__exit__(kind, error, None if error is None else error.__traceback__)
            self._keeper.ended(self.job)
        except Exception as later:  # the last file could not be written
            error = error or later
        if error is None:
            return Outcome(self.job, DONE, seconds=seconds)
        if isinstance(error, Interrupted):
            return Outcome(self.job, STOPPED, seconds=seconds)
        return Outcome(self.job, FAILED, describe(error), seconds)

    def stop(self) -> Outcome:
        """Save it where it stands, and end it."""
        try:
            self.attendant.save()
            return self.end(Interrupted(self.job.folder.path))
        except Exception as error:
            return self.end(error)

    def finish(self) -> Outcome:
        """Write its results, and end it."""
        try:
            try:
                self.attendant.finish()
            except torch.OutOfMemoryError:  # beside those that go on; they leave some, now and then
                torch.cuda.empty_cache()
                self.attendant.finish()
        except Exception as error:
            return self.end(error)
        return self.end()


def describe(error: BaseException) -> str:
    """An error in one line; one that nobody foresaw with its type, and where it came from in the log."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    LOG.debug("%s", "".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {text}"[:500]


class Batch:
    """Makes the objects of a source, one family after the other.

    Args:
        source: gives the objects.
        together: how many advance in one step; None to find out.
        listener: hears what becomes of them.
        keeper: keeps their folders.
        models: the score models, where others want them too.
        found: how many advance together, by family, as far as that was found out before.
    """

    def __init__(
        self,
        source: Source,
        together: int | None,
        listener: Listener,
        keeper: Keeper | None = None,
        models: Models | None = None,
        found: dict[str, int] | None = None,
    ) -> None:
        self.found: dict[str, int] = {} if found is None else found
        self.source, self.number, self.listener = source, together, listener
        self.keeper, self.models = keeper or Keeper(), models or Models()
        self.outcomes: list[Outcome] = []
        self.stopped = False
        self._stop: list[int] = []
        self.tried: list[dict[str, float]] = []
        """What was measured in search of the number that advance together."""

    def run(self) -> list[Outcome]:
        """Make all of them. Ctrl-C saves those that are under way, and sets `stopped`.

        Raises:
            UserError: the device is not there.
        """
        with stop_requests() as stop, Finisher(self.end) as finisher:
            stop += self._stop
            self._stop = stop
            while not stop and (job := self.source.take(None)) is not None:
                Crew(self, job, finisher, stop).make()
            self.stopped = bool(stop)
            finisher.close(cancel=self.stopped)
        return self.outcomes

    def ask_to_stop(self) -> None:
        """Save what is under way and return, as after Ctrl-C; from any thread."""
        self._stop.append(signal.SIGTERM)

    def is_over(self, job: Job) -> bool:
        """Whether an object is done, or cannot even be looked at; it has ended then."""
        try:
            self.keeper.fetch(job)
            if job.is_started() and (other := differences(load_yaml(job.folder.config), job.config)):
                raise UserError(f"{job.folder.path} was made with {'; '.join(other)}: give another {setting('output')}")
        except UserError as error:
            self.end(Outcome(job, FAILED, describe(error)))
            return True
        if job.is_done():
            self.end(Outcome(job, SKIPPED))
            return True
        return False

    def end(self, outcome: Outcome) -> None:
        """An object has ended."""
        self.outcomes.append(outcome)
        self.source.ended(outcome)
        self.listener.ended(outcome)


class Finisher:
    """Writes the results of objects that have taken their steps, one after the other, while others go on.

    Args:
        ended: told of each, by the thread that asks.
    """

    WAITING = 4
    """Objects whose results may wait to be written; one more waits for them."""

    def __init__(self, ended: Callable[[Outcome], None]) -> None:
        self._ended, self._pending = ended, list[tuple[ObjectRun, Future[Outcome]]]()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Finisher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(cancel=True)

    def submit(self, member: ObjectRun) -> None:
        """Have an object's results written."""
        self._pool = self._pool or ThreadPoolExecutor(1, "finisher")
        self._pending.append((member, self._pool.submit(self._finish, member)))
        while len(self._pending) > self.WAITING:
            self._pending[0][1].result()
            self.poll()

    def poll(self) -> None:
        """Tell of those that are done by now."""
        while self._pending and self._pending[0][1].done():
            self._ended(self._pending.pop(0)[1].result())

    def close(self, cancel: bool) -> None:
        """Wait for what is being written; what has not begun is left to another time where that is wanted."""
        while self._pending:
            member, future = self._pending.pop(0)
            if cancel and future.cancel():
                self._ended(member.end(Interrupted(member.job.folder.path)))
            else:
                self._ended(future.result())
        if self._pool is not None:
            self._pool.shutdown()

    @staticmethod
    def _finish(member: ObjectRun) -> Outcome:
        if member.trainer.device.type == "cuda":
            torch.cuda.set_device(member.trainer.device)
        return member.finish()


class Crew:
    """The objects of a family that advance together, from the first one on.

    Args:
        batch: of which they are a part.
        first: says which family.
        finisher: takes those that have taken their steps.
        stop: signals that were seen.
    """

    def __init__(self, batch: Batch, first: Job, finisher: Finisher, stop: list[int]) -> None:
        self.batch, self.finisher, self.stop = batch, finisher, stop
        self.family = family(first.config)
        self.config = settle(first.config)
        self.device = pick_device(self.config.device)
        self.together = Together(batch.number or batch.found.get(self.family), self.device)
        self.members: list[ObjectRun] = []
        self.stack: Stack | Turns | None = None  # of the members; None where they have their own memory
        self._waiting: list[ObjectRun] = []  # under way, without a place
        self._first: Job | None = first
        self._longest = 0  # steps of a run that the stack has room for
        self._dry = False  # the source has no more of the family
        self._crowded = False  # there was no memory for another one, and nobody has left since

    def make(self) -> None:
        """Make all objects of the family.

        Raises:
            UserError: the device is not there.
        """
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        limit_memory(self.config.memory_limit, self.device)
        try:
            while self._gather() and not self.stop:
                self._step()
                self.finisher.poll()
        finally:
            self._dissolve()
            for member in [*self.members, *self._waiting]:
                self.batch.end(member.stop())
            self.batch.tried += self.together.tried
            if self.together.tried and self.together.settled:
                self.batch.found[self.family] = self.together.size

    def _gather(self) -> bool:
        """Fill the places that there are, or empty some; whether anybody has one."""
        free = self.together.size - len(self.members)
        newcomers = self._newcomers(free)
        if newcomers or free < 0:
            self._dissolve()
            self._waiting = self.members[self.together.size :] + self._waiting
            self.members = self.members[: self.together.size] + newcomers
        if self.stack is None and self.members:
            trainers = [member.trainer for member in self.members]
            self._longest = max(self._longest, *(len(t.schedule) for t in trainers))
            self.together.settled |= not can_stack(trainers[0])
            alone = len(trainers) == 1 or not can_stack(trainers[0])
            full = ""
            try:
                self.stack = Turns(trainers) if alone else Stack(trainers, self._longest)
            except torch.OutOfMemoryError as error:
                full = str(error).splitlines()[0]
            if full:
                self._shrink(full)
                return self._gather()
            self.together.begin()
        return bool(self.members)

    def _dissolve(self) -> None:
        """Give every member memory of its own."""
        for slot in range(len(self.members) if self.stack is not None else 0):
            assert self.stack is not None
            self.stack.take(slot)
        self.stack = None
        gc.collect()  # a stack and its graph refer to each other

    def _newcomers(self, count: int) -> list[ObjectRun]:
        """Objects that can take places, at most so many."""
        found: list[ObjectRun] = []
        while len(found) < count:
            beside = (self.members + found)[:1]
            member = self._newcomer(beside[0] if beside else None)
            if member is None:
                break
            found.append(member)
        return found

    def _newcomer(self, beside: ObjectRun | None) -> ObjectRun | None:
        """The next object that can take a place beside one that has one; None if there is none."""
        for i, member in enumerate(self._waiting):
            if beside is None or fits(beside.trainer, member.trainer):
                return self._waiting.pop(i)
        while not self.stop and not self._dry and not (self._crowded and beside is not None):
            job, self._first = self._first or self.batch.source.take(self.family), None
            if job is None:
                self._dry = True
                break
            member = self._begin(job, alone=beside is None)
            if self._first is not None:
                self._crowded = True
                break
            if member is None:
                continue
            if member.all_taken:
                self.finisher.submit(member)
            elif beside is not None and not fits(beside.trainer, member.trainer):
                self._waiting.append(member)
            else:
                return member
        return None

    def _begin(self, job: Job, alone: bool) -> ObjectRun | None:
        """An object under way; None if it is done, cannot be made, or has no room beside others (then it is next)."""
        batch = self.batch
        if batch.is_over(job):
            return None
        try:
            model = batch.models.get(self.config, self.device)
            check_words(job.config.model, job.config.prompt)
            job = replace(job, config=settle(job.config))
            member = ObjectRun(job, model, self.device, batch, self.together.size)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) and not alone:
                self._first = job
            else:
                batch.end(Outcome(job, FAILED, describe(error)))
            return None
        batch.listener.begun(job, member.trainer.position)
        return member

    def _step(self) -> None:
        """A step of everybody, and what is due after it; those who end are replaced."""
        assert self.stack is not None
        self.together.before_step()
        full = ""
        try:
            self.stack.step()
        except torch.OutOfMemoryError as error:  # whose frames hold what the step made, until this block is left
            full = str(error).splitlines()[0]
        if full:
            self._shrink(full)
            return
        more = self.batch.source.left(self.family) + len(self._waiting)
        self.together.after_step(len(self.members), more)
        self.batch.listener.stepped(len(self.members))
        leaving: dict[int, Exception | None] = {}
        for slot, member in enumerate(self.members):
            try:
                member.attendant.after_step()
                if member.all_taken:
                    leaving[slot] = None
            except torch.OutOfMemoryError as error:  # of a preview, beside the others
                full = str(error).splitlines()[0]
                if member.all_taken:
                    leaving[slot] = None
            except Exception as error:
                leaving[slot] = error
        if leaving:
            self._let_go(leaving)
        if full and len(self.members) > 1:
            self._shrink(full)

    def _let_go(self, leaving: dict[int, Exception | None]) -> None:
        """Give places to others, in the same memory as far as they fit there, and end who had them."""
        assert self.stack is not None
        gone = [(self.members[slot], error) for slot, error in leaving.items()]
        for slot in leaving:
            self.stack.take(slot)
        self._crowded = False
        newcomers = self._newcomers(len(leaving) + min(0, self.together.size - len(self.members)))
        vacant = list(leaving)
        for member in [m for m in newcomers if len(m.trainer.schedule) <= self._longest]:
            slot = vacant.pop(0)
            self.stack.put(slot, member.trainer)
            self.members[slot] = member
            newcomers.remove(member)
        if vacant:
            self._dissolve()  # those who left have their own memory twice now, which harms nobody
            self.members = [m for slot, m in enumerate(self.members) if slot not in vacant] + newcomers
        for member, error in gone:
            if error is None:
                self.finisher.submit(member)
            else:
                self.batch.end(member.end(error))

    def _shrink(self, error: str) -> None:
        """Memory ran out: go on with half as many; an object that is too large alone fails."""
        if len(self.members) > 1:
            self.together.limit(len(self.members) // 2)
        else:
            member = self.members.pop()
            self.stack = None
            self.batch.end(member.end(UserError(f"the device has too little memory ({error})")))
        self._dissolve()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
