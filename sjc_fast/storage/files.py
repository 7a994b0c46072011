"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError


def prepare(path: Path) -> None:
    """Make the folder of a file that is to be written, and see that it can be, before the work on it.

    Raises:
        UserError: it cannot.
    """
    probe = path.with_name(f"{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may look at this moment
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def atomic(path: Path, what: str) -> Iterator[Path]:
    """A temporary name beside `path` to write to; flushed to the disk and renamed when the block ends well.

    A reader sees the old file or the new one, never a part; an error or an interruption leaves nothing behind.

    Args:
        path: the file to make.
        what: what it is, for the message.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(f"{path.stem}.tmp{path.suffix}")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {what} {path}: {' '.join(str(error).split())[:300]}") from None
    finally:
        partial.unlink(missing_ok=True)
