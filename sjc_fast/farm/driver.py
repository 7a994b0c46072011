"""The driver of the farm: it keeps the queue, gives objects to workers, and notices when one is gone.

Run folders are the truth: a worker that starts on an object goes on from the checkpoint that it finds, so that the
driver need not know how far anybody was. Workers are not restarted by Ray; the driver makes new ones, as many as the
cluster has room for at that moment.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..errors import UserError, setting
from ..runs.batch import DONE, FAILED, SKIPPED, STOPPED, Listener, Outcome
from ..runs.jobs import Job
from .board import NAME, NAMESPACE, Board
from .worker import Worker, pack

LOG = logging.getLogger(__name__)
#: Times that an object may lose its worker before it is given up.
LIVES = 3
#: Objects that a worker is given at a time, where it finds out itself how many advance together.
MOST_AT_A_TIME = 16
#: Seconds from one look at the cluster to the next, that a worker may take to start, and to an address.
LOOK, START, REACH = 2.0, 600.0, 5.0


@dataclass(frozen=True)
class FarmSettings:
    """How the farm is made."""

    address: str  # "auto": a cluster that runs here, else a new one on this machine; or host:port
    output: str
    together: int | None
    deterministic: bool
    gpus: float  # a worker
    cpus: float  # a worker


@dataclass
class Hand:
    """A worker, and what it is doing."""

    actor: Any
    hello: Any  # becomes its version, once it has started; None when that was looked at
    task: Any = None
    jobs: tuple[Job, ...] = ()


def import_ray() -> Any:
    """Ray, an optional package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UserError(f"{setting('farm')}: Ray is not installed; pip install 'sjc-fast[farm]'") from None
    return ray


def connect(address: str) -> Any:
    """Ray, connected to a cluster.

    Raises:
        UserError: there is none at the address.
    """
    ray = import_ray()
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if ray.is_initialized():  # by whoever called
        return ray
    try:
        if address == "auto":
            try:
                ray.init(address="auto", **options)
            except ConnectionError:  # none runs here
                ray.init(include_dashboard=False, **options)
            return ray
        _reach(address)
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{setting('farm')} {address}: {str(error).splitlines()[0]}") from None
    return ray


def _reach(address: str) -> None:
    """See that somebody listens there, which Ray itself would wait for."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{setting('farm')} {address}: give auto, or HOST:PORT of a Ray cluster's head")
    try:
        socket.create_connection((host, int(port)), timeout=REACH).close()
    except OSError as error:
        raise UserError(f"{setting('farm')} {address}: nothing answers there ({error.strerror or error})") from None


class Farm:
    """Makes objects on the workers of a Ray cluster.

    Args:
        jobs: the objects, in the order in which they begin.
        settings: of the farm.
        listener: hears what becomes of them.
        ray: connected.
    """

    def __init__(self, jobs: list[Job], settings: FarmSettings, listener: Listener, ray: Any) -> None:
        self.ray, self.settings, self.listener = ray, settings, listener
        self.queue = list(jobs)
        self.outcomes: list[Outcome] = []
        self.lost = 0
        """Workers that were lost."""
        self._jobs = {job.name: job for job in jobs}
        self._lives = dict.fromkeys(self._jobs, LIVES)
        self._hands: list[Hand] = []
        self._counted = 0
        here = ray.get_runtime_context().get_node_id()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        total = sum(job.config.steps for job in jobs)
        beside = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}
        board = ray.remote(Board).options(**beside, name=NAME, namespace=NAMESPACE, get_if_exists=False)
        try:
            self.board = board.remote(list(self._jobs), total, settings.output)
            ray.get(self.board.read.remote())
        except ValueError:
            raise UserError("another farm is at work in this cluster; sjc-fast farm status shows it") from None

    def run(self, stop: list[int]) -> list[Outcome]:
        """Make all of them.

        Args:
            stop: signals that were seen; with one of them, everything under way is saved, and this returns.

        Raises:
            UserError: no worker can be had.
        """
        looked = alone_since = time.monotonic() - LOOK
        drained = False
        while self.queue or any(hand.task is not None for hand in self._hands):
            if stop and not drained:
                drained = True
                self._drain()
            if drained and not any(hand.task is not None for hand in self._hands):
                break
            now = time.monotonic()
            if any(map(self._has_started, self._hands)):
                alone_since = now
            elif now - alone_since > START:
                raise UserError(f"the cluster has had no room for a worker for {START / 60:.0f} minutes")
            if now - looked >= LOOK and not drained:
                looked = now
                self._hire()
                self._greet()
            if not drained:
                self._give()
            self._wait()
            self._report()
        for hand in self._hands:
            self.ray.kill(hand.actor)
        for job in self.queue:  # which nobody began
            self._end(Outcome(job, STOPPED))
        self.ray.kill(self.board)
        return self.outcomes

    def _hire(self) -> None:
        """As many workers as there is work for, and room on the machines."""
        s = self.settings
        room = sum(self._room(node["Resources"]) for node in self.ray.nodes() if node["Alive"])
        busy = sum(hand.task is not None for hand in self._hands)
        wanted = int(min(room, busy + len(self.queue)))
        if not wanted and self.queue and not self._hands:
            each = f"{s.gpus:g} GPU" if s.gpus else f"{s.cpus:g} CPU"
            LOG.warning("the cluster has no room for a worker of %s yet", each)
        actor = self.ray.remote(Worker).options(
            num_gpus=s.gpus, num_cpus=s.cpus, max_restarts=0, max_task_retries=0, max_concurrency=2
        )
        for _ in range(wanted - len(self._hands)):
            threads = int(s.cpus) if not s.gpus else 0
            made = actor.remote(s.output, s.together, s.deterministic, threads, self.board)
            self._hands.append(Hand(made, made.version.remote()))
        self.board.tell.remote({"workers": len(self._hands)})

    def _room(self, has: dict[str, float]) -> int:
        """Workers that a machine has room for."""
        wanted = {"GPU": self.settings.gpus, "CPU": self.settings.cpus}
        return min(
            (math.floor(has.get(kind, 0) / each + 1e-6) for kind, each in wanted.items() if each),
            default=MOST_AT_A_TIME,
        )

    def _greet(self) -> None:
        """See that workers that have started are of this version.

        Raises:
            UserError: one is not.
        """
        for hand in self._hands:
            if hand.hello is None or not self._has_started(hand):
                continue
            try:
                version = self.ray.get(hand.hello)
            except self.ray.exceptions.RayError:  # it is gone already, which its task will say
                continue
            hand.hello = None
            if version != __version__:
                raise UserError(f"a worker has sjc-fast {version}, and this is {__version__}: install one everywhere")

    def _has_started(self, hand: Hand) -> bool:
        return hand.hello is None or bool(self.ray.wait([hand.hello], timeout=0)[0])

    def _give(self) -> None:
        """Objects for whoever has none."""
        started = [hand for hand in self._hands if self._has_started(hand)]
        for hand in started:
            if not self.queue:
                return
            if hand.task is not None:
                continue
            count = self.settings.together or min(MOST_AT_A_TIME, math.ceil(len(self.queue) / (2 * len(started))))
            safe = [self._lives[job.name] == LIVES for job in self.queue[:count]]
            if not all(safe):  # what lost a worker may have been the reason: alone, it takes nobody with it
                count = max(1, safe.index(False))
            hand.jobs, self.queue = tuple(self.queue[:count]), self.queue[count:]
            hand.task = hand.actor.make.remote([pack(job) for job in hand.jobs])

    def _wait(self) -> None:
        """Hear from whoever has finished or is gone."""
        tasks = {hand.task: hand for hand in self._hands if hand.task is not None}
        if not tasks:
            time.sleep(0.2)
            return
        ready, _ = self.ray.wait(list(tasks), timeout=0.5)
        for task in ready:
            hand = tasks[task]
            try:
                said: list[dict[str, Any]] = self.ray.get(task)
            except self.ray.exceptions.RayError as error:
                self._lose(hand, error)
                continue
            hand.task = None
            for one in said:
                again = self._lives[one["name"]] < LIVES  # it was done by a worker that was lost before it could say so
                how = DONE if again and one["status"] == SKIPPED else one["status"]
                self._end(Outcome(self._jobs[one["name"]], how, one["message"], one["seconds"]))

    def _lose(self, hand: Hand, error: Exception) -> None:
        """A worker is gone, or failed in a way that nobody foresaw: its objects go to others."""
        self.lost += 1
        self._hands.remove(hand)
        self.ray.kill(hand.actor)
        why = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        names = ", ".join(job.name for job in hand.jobs)
        self.listener.announce(f"a worker was lost; others go on with {names}")
        LOG.info("%s", why)
        again: list[Job] = []
        for job in hand.jobs:
            self._lives[job.name] -= 1
            if self._lives[job.name]:
                again.append(job)
            else:
                self._end(Outcome(job, FAILED, f"its worker was lost {LIVES} times: {why}"))
        self.queue = again + self.queue

    def _drain(self) -> None:
        """Ask every worker to save and return; those that have not found a place yet are let go."""
        self.listener.announce("saving everything that is under way")
        for hand in list(self._hands):
            if self._has_started(hand):
                hand.actor.stop.remote()
                continue
            self.ray.kill(hand.actor)
            self._hands.remove(hand)
            self.queue = [*hand.jobs, *self.queue]

    def _report(self) -> None:
        try:
            state = self.ray.get(self.board.read.remote(), timeout=5)
        except self.ray.exceptions.RayError:  # on a machine that is gone, or too busy to answer
            return
        if state["steps"] > self._counted:
            self.listener.stepped(state["steps"] - self._counted)
            self._counted = state["steps"]

    def _end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.board.tell.remote({"name": outcome.job.name, "status": outcome.status})
        self.listener.ended(outcome)


def status(address: str) -> dict[str, Any]:
    """What the farm of a cluster is doing.

    Raises:
        UserError: there is no cluster, or no farm in it.
    """
    ray = connect_only(address)
    try:
        board = ray.get_actor(NAME, namespace=NAMESPACE)
        return ray.get(board.read.remote(), timeout=10)
    except ValueError:
        raise UserError(f"no farm is at work in the cluster at {address}") from None
    except ray.exceptions.RayError as error:
        raise UserError(f"the farm at {address} does not answer: {str(error).splitlines()[0]}") from None


def connect_only(address: str) -> Any:
    """Ray, connected to a cluster that runs already.

    Raises:
        UserError: there is none.
    """
    ray = import_ray()
    if address == "auto" and not ray.is_initialized():
        try:
            ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:
            raise UserError("no Ray cluster runs on this machine: give its address, HOST:PORT") from None
        return ray
    return connect(address)
