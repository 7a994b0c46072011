"""`sjc-fast doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass

from .. import __version__
from . import parse


@dataclass
class DoctorOptions:
    """What to look at."""

    model: str | None = None
    """Count this model too: a diffusers folder or a hub id, of which only configurations are read."""


def main(arguments: list[str]) -> None:
    """Print a line a finding."""
    options = parse(DoctorOptions, arguments, "doctor")
    for mark, what, detail in findings():
        print(f"[{mark}] {what}: {detail}")
    if options.model:
        for what, detail in _model(options.model):
            print(f"[ok] {what}: {detail}")


def findings() -> Iterator[tuple[str, str, str]]:
    """(ok, --, or !!), what, and detail."""
    yield (
        "ok",
        "sjc-fast",
        f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    )
    for name, why in (
        ("torch", ""),
        ("diffusers", ""),
        ("transformers", ""),
        ("peft", "for --lora: pip install peft"),
        ("triton", "for the fused kernels; Linux x86-64 only"),
    ):
        try:
            yield "ok", name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield ("--" if why else "!!"), name, f"not installed{'; ' + why if why else ': pip install ' + name}"
    yield from _xformers()
    yield from _devices()
    yield from _tools()


def _model(name: str) -> Iterator[tuple[str, str]]:
    from ..scores.hub import size_in_words
    from ..scores.load import model_folder
    from ..scores.sizes import measure_model

    found = measure_model(str(model_folder(name) or name))
    yield f"model {name}", f"{found.pipeline}, denoises {found.channels} x {found.side} x {found.side}"
    for part, count in found.parameters.items():
        yield part, f"{count / 1e6:,.1f} M parameters, {size_in_words(2 * count)} in fp16"
    yield "all parts", f"{size_in_words(found.half_bytes)} in fp16"
    yield "a call of the network", f"{found.flops / 1e12:.3g} TFLOP an input; guidance doubles it"


def _xformers() -> Iterator[tuple[str, str, str]]:
    from ..scores.attention import xformers_problem

    problem = xformers_problem()
    try:
        version = importlib.metadata.version("xformers")
        yield ("--" if problem else "ok"), "xformers", version + (f"; {problem}" if problem else "")
    except importlib.metadata.PackageNotFoundError:
        yield "--", "xformers", f"optional attention kernels; {problem}"


def _devices() -> Iterator[tuple[str, str, str]]:
    import torch

    from ..rendering import BACKENDS, choose_backend

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            yield "ok", f"cuda:{i}", f"{p.name}, {p.total_memory / 2**30:.0f} GiB, sm_{p.major}{p.minor}"
    else:
        built = "PyTorch is a CPU build" if torch.version.cuda is None else "no usable NVIDIA device or driver"
        yield "--", "cuda", f"none ({built}); the embedded model does not need one"
    yield "ok", "cpu", f"{torch.get_num_threads()} threads"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    yield "ok", "renderers", f"{', '.join(BACKENDS)}; auto is {choose_backend('auto', device)} on {device}"


def _tools() -> Iterator[tuple[str, str, str]]:
    from ..scores.load import EMBEDDED, embedded_folder

    weights = embedded_folder() / "unet"
    yield ("ok" if weights.is_dir() else "!!"), f"model {EMBEDDED}", str(embedded_folder())
    from ..errors import MissingTool
    from ..export.video import find_ffmpeg

    try:
        yield "ok", "ffmpeg", find_ffmpeg()
    except MissingTool as error:
        yield "!!", "ffmpeg", str(error)
