"""Which attention a UNet uses: one of PyTorch's, tried at load on a CUDA device, or xformers', which is optional."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ..errors import UserError, setting

LOG = logging.getLogger(__name__)

#: PyTorch's kernels by name; the mathematical one does what the others refuse.
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
#: PyTorch (pull request 161210) takes cuDNN from 9.11 on to be unsafe for heads wider than this.
CUDNN_UNSAFE, CUDNN_HEAD = 91100, 128
#: Root mean square of a kernel's error over that of the answer. Half precision rounds the answer and the weights, each
#: by at most 2^-11 (bfloat16: 2^-8) of their size: three times as much as both together.
TOLERANCE = {torch.float16: 3e-3, torch.bfloat16: 2.4e-2, torch.float32: 3e-3}  # which may be multiplied as TF32


@dataclass(frozen=True)
class AttentionChoice:
    """What a network's attention runs on."""

    name: str
    """As it is shown: "sdpa", "sdpa without cudnn", "flash", "xformers ...", "none"."""
    backends: tuple[SDPBackend, ...] = ()
    """PyTorch's kernels to choose from, the first that can; empty: PyTorch chooses."""

    def active(self) -> AbstractContextManager[Any]:
        """While this is entered, PyTorch's attention runs on what was chosen."""
        return sdpa_kernel(list(self.backends), set_priority=True) if self.backends else nullcontext()


class Heads(NamedTuple):
    """A kind of attention in a network."""

    width: int  # numbers a head
    crossed: bool  # whether it looks at text


def xformers_problem() -> str | None:
    """What keeps xformers' own kernels from running: it is absent, or was built for another PyTorch; None if nothing.

    In the second case xformers still works, and dispatches to PyTorch's kernels and its Triton one.
    """
    if importlib.util.find_spec("xformers") is None:
        return "it is not installed: pip install 'sjc-fast[xformers]'"
    logging.getLogger("xformers").setLevel(logging.ERROR)  # its warning says in six lines what we say in one
    from xformers import _cpp_lib  # pyright: ignore[reportMissingImports] - optional

    failure = _cpp_lib._cpp_library_load_exception
    build = getattr(failure, "build_info", None)
    if failure is None:
        return None
    if build is None:
        return "its compiled kernels do not load; it dispatches to PyTorch's"
    return (
        f"its kernels, built for PyTorch {build.torch_version}, do not load with {torch.__version__}; "
        "it dispatches to PyTorch's"
    )


def check_attention(name: str, device: torch.device) -> None:
    """Refuse an attention that cannot be had.

    Raises:
        UserError: xformers is not installed, or the device has no use for it.
    """
    if name == "sdpa":
        return
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        raise UserError(f"{setting('attention')} xformers: {xformers_problem()}, or choose sdpa")
    if device.type != "cuda":
        raise UserError(f"{setting('attention')} {name}: it needs a CUDA device; choose sdpa")


def choose_attention(unet: Any, name: str, device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    """Make a diffusers UNet use an attention by name.

    On a CUDA device PyTorch's kernels are held against the mathematical attention first, and what errs or disagrees is
    not used, which a warning says.

    Args:
        name: "sdpa" (PyTorch chooses), one of `BACKENDS` (another does what it cannot), or "xformers".
    """
    if not getattr(unet, "attn_processors", True):
        return AttentionChoice("none")
    if name == "xformers":
        unet.enable_xformers_memory_efficient_attention()
        return AttentionChoice(_xformers_operator(unet, device, dtype))
    if device.type != "cuda":
        return AttentionChoice(name)
    wrong = faulty_backends(heads_of(unet), device, dtype)
    for kind, problem in wrong.items():
        LOG.warning("attention %s is not used: %s", kind, problem)
    sound = [kind for kind in BACKENDS if kind not in wrong]
    if name in sound:
        sound = [name, *(kind for kind in sound if kind != name)]
    elif name == "sdpa" and not wrong:
        return AttentionChoice(name)
    shown = name if name in sound else f"sdpa without {', '.join(wrong)}"
    return AttentionChoice(shown, (*(BACKENDS[kind] for kind in sound), SDPBackend.MATH))


def heads_of(unet: Any) -> list[Heads]:
    """The kinds of attention in a diffusers network."""
    layers = [m for m in unet.modules() if hasattr(m, "inner_dim") and hasattr(m, "heads")]
    return sorted({Heads(m.inner_dim // m.heads, getattr(m, "is_cross_attention", False)) for m in layers})


def faulty_backends(
    kinds: Iterable[Heads], device: torch.device, dtype: torch.dtype, backends: dict[str, SDPBackend] = BACKENDS
) -> dict[str, str]:
    """Back ends that a network's attention cannot be trusted to, with the reason.

    One that refuses a kind (there is no kernel for it) is not faulty: PyTorch asks before it calls.
    """
    found: dict[str, str] = {}
    for heads in kinds:
        query, key, value = _probe(heads, device, dtype)
        with sdpa_kernel(SDPBackend.MATH):
            truth = scaled_dot_product_attention(query.float(), key.float(), value.float())
        for name, backend in backends.items():
            if name not in found and (problem := _problem(backend, (query, key, value), truth)):
                found[name] = f"{problem} for heads of {heads.width} numbers"
    return found


def _probe(heads: Heads, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Query, key and value of one kind: two heads, 1,024 places, which look at themselves or at 77 words."""
    generator = torch.Generator().manual_seed(heads.width)
    lengths = (1024, 77, 77) if heads.crossed else (1024,) * 3
    return [torch.randn(1, 2, n, heads.width, generator=generator).to(device, dtype) for n in lengths]


def _problem(backend: SDPBackend, inputs: tuple[Tensor, Tensor, Tensor], truth: Tensor) -> str | None:
    version, width = torch.backends.cudnn.version(), inputs[0].shape[-1]
    if backend == SDPBackend.CUDNN_ATTENTION and not trust_cudnn(version, width):
        return f"cuDNN {version} is known to be unsafe"
    try:
        with sdpa_kernel(backend):
            answer = scaled_dot_product_attention(*inputs).float()
    except RuntimeError as error:
        said = " ".join(str(error).split())
        return None if "No available kernel" in said or "No viable backend" in said else f"it fails ({said[:100]})"
    error = relative_error(answer, truth)
    return None if error < TOLERANCE[inputs[0].dtype] else f"it is off by {error:.1e}"


def relative_error(answer: Tensor, truth: Tensor) -> float:
    """Root mean square of the difference, by that of the truth (waits for the device)."""
    return float((answer - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def trust_cudnn(version: int | None, width: int) -> bool:
    """Whether cuDNN's attention may be tried with heads of a width: what is unsafe may agree once, and not again."""
    return version is None or version < CUDNN_UNSAFE or width <= CUDNN_HEAD


def _xformers_operator(unet: Any, device: torch.device, dtype: torch.dtype) -> str:
    """What xformers runs in the network's first self-attention, by name."""
    from xformers.ops.fmha import Inputs, _dispatch_fw  # pyright: ignore[reportMissingImports] - optional

    heads = unet.config.attention_head_dim  # which diffusers uses for the number of heads
    heads = heads if isinstance(heads, int) else heads[0]
    width = unet.config.block_out_channels[0] // heads
    one = torch.empty(1, unet.config.sample_size**2, heads, width, device=device, dtype=dtype)
    return f"xformers {_dispatch_fw(Inputs(query=one, key=one, value=one), needs_gradient=False).NAME}"
