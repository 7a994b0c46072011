"""Folders elsewhere: files of runs are put to, and fetched from, any place that fsspec has a file system for.

Object stores have no renaming, and show a file once all of it is there: files are put whole, the record of a run last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError

LOG = logging.getLogger(__name__)
Result = TypeVar("Result")

#: Attempts at one file, and seconds before the second one; each further wait is twice as long.
ATTEMPTS, FIRST_WAIT = 5, 0.5


def is_remote(output: str) -> bool:
    """Whether it is a URL such as s3://bucket/folder, not a path."""
    return "://" in output


class RemoteFolder:
    """A folder elsewhere, and its files.

    Args:
        url: such as s3://bucket/folder.

    Raises:
        UserError: no file system for it is installed, or it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            options = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {}
            system, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, **options)
        except (ImportError, ValueError, OSError) as error:
            raise UserError(f"{url}: {_line(error)}") from None
        self.url = url.rstrip("/")
        self._system: Any = system
        self._root = str(root).rstrip("/")
        self._sizes: dict[str, tuple[int, int]] = {}  # of what was put: bytes, time of change

    def check(self) -> None:
        """See that it can be written to.

        Raises:
            UserError: it cannot.
        """
        path = f"{self._root}/.sjc-fast"
        self._try(lambda: self._system.pipe_file(path, b""), path, attempts=2)

    def put(self, folder: Path, name: str, files: Iterable[Path]) -> None:
        """Put files of a local folder into the folder `name`, but for those that have not changed since.

        Raises:
            UserError: one of them cannot be written, after several attempts.
        """
        for file in files:
            try:
                stat = file.stat()
            except FileNotFoundError:  # one that comes and goes
                continue
            key, state = f"{self._root}/{name}/{file.relative_to(folder).as_posix()}", (stat.st_size, stat.st_mtime_ns)
            if self._sizes.get(key) != state:
                self._try(lambda file=file, key=key: self._system.put_file(str(file), key), key)
                self._sizes[key] = state

    def fetch(self, name: str, folder: Path, files: Iterable[str] | None = None) -> bool:
        """Fetch the files of the folder `name`, all or some. Whether there were any.

        Raises:
            UserError: one of them cannot be read, after several attempts.
        """
        prefix = f"{self._root}/{name}"
        self._system.invalidate_cache()
        found: list[str] = self._try(lambda: self._system.find(prefix), prefix)
        some = False
        for key in found:
            inner = str(key)[len(prefix) :].lstrip("/")
            if not inner or ".." in Path(inner).parts or (files is not None and inner not in files):
                continue
            place = folder / inner
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_name(f"{place.name}.tmp")
            self._try(lambda key=key, partial=partial: self._system.get_file(key, str(partial)), key)
            partial.replace(place)
            stat = place.stat()
            self._sizes[str(key)] = (stat.st_size, stat.st_mtime_ns)
            some = True
        return some

    def put_page(self, file: Path) -> None:
        """Put one file beside the folders.

        Raises:
            UserError: it cannot be written.
        """
        self._try(lambda: self._system.put_file(str(file), f"{self._root}/{file.name}"), file.name)

    def _try(self, action: Callable[[], Result], path: str, attempts: int = ATTEMPTS) -> Result:
        wait = FIRST_WAIT
        for attempt in range(1, attempts + 1):
            try:
                return action()
            except FileNotFoundError as error:  # no such bucket: trying again does not help
                raise UserError(f"{self.url}: {_line(error)}") from None
            except Exception as error:  # each file system has errors of its own
                if attempt == attempts:
                    raise UserError(f"{self.url}: {_line(error)}") from None
                LOG.info("%s: %s; trying again", path, _line(error))
                time.sleep(wait)
                wait *= 2
        raise AssertionError("unreachable")


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
