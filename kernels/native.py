"""The compiled C++ kernels for CPU tensors (csrc/): built once a machine, kept in a cache, loaded at first use.

``python -m sjc_fast.kernels.native`` builds them beforehand. Nothing in the build depends on the processor: the code
for newer ones is chosen when it runs, so a cache may move to another machine.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

LOG = logging.getLogger(__name__)
_LOADING = threading.Lock()
SOURCES = Path(__file__).parent / "csrc"
FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-fvisibility=hidden")


class NativeError(RuntimeError):
    """The compiled kernels cannot be had here; the message says why, and what would help."""


def problem() -> str | None:
    """Why the compiled kernels cannot be used; None if they can. The first call may build them."""
    try:
        load()
    except NativeError as error:
        return str(error)
    return None


def load() -> Any:
    """The compiled operators, `torch.ops.sjc_fast_cpu`; built first if the cache has none for this PyTorch.

    Raises:
        NativeError: no compiler, or a build that fails. Later calls say the same at once.
    """
    found = _load()
    if isinstance(found, str):
        raise NativeError(found)
    return found


@functools.cache
def _load() -> Any:
    with _LOADING:
        if hasattr(torch.ops.sjc_fast_cpu, "march_forward"):  # another thread was faster
            return torch.ops.sjc_fast_cpu
        try:
            library = cache_folder() / f"{_key()}.so"
            if library.exists():
                with contextlib.suppress(OSError):  # a damaged one is built again
                    torch.ops.load_library(str(library))
                    return torch.ops.sjc_fast_cpu
            _check_tools()
            with tempfile.TemporaryDirectory(prefix="sjc-fast-") as scratch:  # what is loaded outlives its file
                torch.ops.load_library(str(_build_once(library, Path(scratch))))
        except (NativeError, OSError, ValueError) as error:  # ours, the file system's, of words that do not split
            return " ".join(str(error).split())
    return torch.ops.sjc_fast_cpu


def cache_folder() -> Path:
    """Where built libraries are kept: $SJC_FAST_CACHE, else sjc-fast in the user's cache folder."""
    if own := os.environ.get("SJC_FAST_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sjc-fast"
    except RuntimeError:
        raise NativeError("there is no home folder to keep the compiled code in: set SJC_FAST_CACHE") from None


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "")) or ["c++"]


def _own_flags() -> list[str]:
    """Flags of $SJC_FAST_CXXFLAGS, for compiler and linker: for sanitizers, say."""
    return shlex.split(os.environ.get("SJC_FAST_CXXFLAGS", ""))


def _key() -> str:
    """Changes with what makes another library: sources, flags, compiler's name, PyTorch, Python, system, C library."""
    found = hashlib.sha256()
    machine = [platform.system(), platform.machine(), *platform.libc_ver()]
    parts = [torch.__version__, sys.version, *machine, *_compiler(), *FLAGS, *_own_flags()]
    found.update("\0".join(parts).encode())
    for path in sorted(SOURCES.iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:20]


def _check_tools() -> None:
    if platform.system() not in ("Linux", "Darwin"):
        raise NativeError(f"the C++ code needs GCC or Clang on Linux or macOS, not {platform.system()}")
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        raise NativeError(f"there is no C++ compiler ({compiler[0]}); Debian and Ubuntu: apt install g++")


def _build_once(library: Path, scratch: Path) -> Path:
    """Build into the cache, one process at a time; where it cannot be written, into `scratch`, for this process."""
    before = _changed(library)
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with _locked(library.with_suffix(".lock")):
            if _changed(library) == before:  # else another process has built it meanwhile
                with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                    os.replace(_build(Path(folder)), library)
        return library
    except OSError as error:
        LOG.warning("%s: %s: the CPU renderer is compiled anew in every run", library.parent, error.strerror or error)
        return _build(scratch)


def _changed(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when that process dies."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path) -> Path:
    LOG.warning("compiling the CPU renderer, once (about 20 s)")
    started = time.monotonic()
    flags = [*FLAGS, *_own_flags()]
    if "clang" not in _version(_compiler()) and platform.system() == "Linux":
        flags.append("-fopenmp")  # for at::parallel_for; not linked: PyTorch has brought the runtime. See parallel.h
    with _ninja_on_path():
        try:
            from torch.utils import cpp_extension

            cpp_extension.load(
                "sjc_fast_cpu",
                [str(path) for path in sorted(SOURCES.glob("*.cpp"))],
                extra_cflags=flags,
                extra_ldflags=_own_flags(),
                build_directory=str(folder),
                is_python_module=False,
            )
        except OSError as error:
            hint = "set SJC_FAST_CACHE to a folder that programs may run from"
            raise NativeError(f"what was compiled does not load: {_first_error(str(error))}; {hint}") from None
        except Exception as error:  # whatever the build raises, the reference renderer works
            raise NativeError(f"the C++ code does not compile: {_first_error(str(error))}") from None
    LOG.info("compiled in %.0f s", time.monotonic() - started)
    return folder / "sjc_fast_cpu.so"


def _version(compiler: list[str]) -> str:
    import subprocess

    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout


@contextlib.contextmanager
def _ninja_on_path() -> Iterator[None]:
    """The ninja of this Python environment, which need not be activated."""
    before = os.environ.get("PATH", "")
    with contextlib.suppress(ImportError):
        import ninja

        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _first_error(text: str) -> str:
    """The compiler's first complaint, or the first line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if re.search(r"\berror:", line)), lines[0])[:300]


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    found = problem()
    print(f"no compiled CPU renderer: {found}; the reference renderer will be used" if found else "CPU renderer: ready")
