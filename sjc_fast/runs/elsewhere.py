"""Objects that are kept elsewhere than they are made: their folders go to a URL, and come back to be gone on with."""

from __future__ import annotations

import contextlib
import shutil

from ..storage.remote import RemoteFolder
from .batch import Keeper
from .jobs import Job


class RemoteKeeper(Keeper):
    """Keeps objects in a remote folder; here is only what is being worked on.

    Args:
        remote: the folder.
    """

    def __init__(self, remote: RemoteFolder) -> None:
        self.remote = remote

    def fetch(self, job: Job) -> None:
        folder = job.folder.path
        shutil.rmtree(folder, ignore_errors=True)  # what is there is the truth, not what is here
        self.remote.fetch(job.name, folder, [job.folder.record.name, job.folder.config.name])
        if not job.is_done():
            self.remote.fetch(job.name, folder)

    def saved(self, job: Job) -> None:
        self._put(job, last=False)

    def ended(self, job: Job) -> None:
        self._put(job, last=True)
        with contextlib.suppress(OSError):
            shutil.rmtree(job.folder.path)

    def _put(self, job: Job, last: bool) -> None:
        """Put the folder; the record, which says that an object is finished, after everything else."""
        folder, record = job.folder.path, job.folder.record
        files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f != record and ".tmp" not in f.name]
        self.remote.put(folder, job.name, files)
        if last:
            self.remote.put(folder, job.name, [record])
