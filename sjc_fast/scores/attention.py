"""Which attention a UNet uses: PyTorch's, or xformers', which is optional."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch

from ..errors import UserError, setting


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
    if importlib.util.find_spec("xformers") is None:
        raise UserError(f"{setting('attention')} xformers: {xformers_problem()}, or choose sdpa")
    if device.type != "cuda":
        raise UserError(f"{setting('attention')} xformers: it needs a CUDA device; choose sdpa")


def use_attention(unet: Any, name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Make a diffusers UNet use the attention called "sdpa" (what it does anyway) or "xformers".

    Returns:
        The operator that runs in its first self-attention, by name; "none" for a network without attention.
    """
    if not unet.attn_processors:
        return "none"
    if name == "sdpa":
        return name
    unet.enable_xformers_memory_efficient_attention()
    from xformers.ops.fmha import Inputs, _dispatch_fw  # pyright: ignore[reportMissingImports] - optional

    heads = unet.config.attention_head_dim  # which diffusers uses for the number of heads
    heads = heads if isinstance(heads, int) else heads[0]
    width = unet.config.block_out_channels[0] // heads
    one = torch.empty(1, unet.config.sample_size**2, heads, width, device=device, dtype=dtype)
    return f"xformers {_dispatch_fw(Inputs(query=one, key=one, value=one), needs_gradient=False).NAME}"
