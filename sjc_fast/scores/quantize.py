"""Weights of a large network in fewer bits than it computes in, by diffusers' own means."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from ..errors import UserError, setting

#: By name: nf4 and int8 by bitsandbytes, an optional package, while weights are read; fp8 by diffusers' layerwise
#: casting, layers being widened as they are called.
SCHEMES = ("none", "nf4", "int8", "fp8")


def check_quantization(scheme: str, device: torch.device, lora: bool) -> None:
    """Refuse what cannot be had.

    Raises:
        UserError: why not.
    """
    name = setting("quantize")
    if scheme not in SCHEMES:
        raise UserError(f"{name} {scheme}: choose one of {', '.join(SCHEMES)}")
    if scheme not in ("nf4", "int8"):
        return
    if device.type != "cuda":
        raise UserError(f"{name} {scheme}: it needs a CUDA device; fp8 works anywhere")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{name} {scheme}: bitsandbytes is not installed: pip install bitsandbytes, or choose fp8")
    if lora:
        raise UserError(f"{name} {scheme}: LoRA weights cannot be merged into it; choose fp8")


def loading_options(scheme: str, dtype: torch.dtype) -> dict[str, Any]:
    """What the loader of a network's weights is told."""
    if scheme not in ("nf4", "int8"):
        return {}
    from diffusers.quantizers.quantization_config import BitsAndBytesConfig

    if scheme == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    four: dict[str, Any] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **four)}


def narrow(network: Any, scheme: str, dtype: torch.dtype) -> None:
    """Keep a network's weights in 8 bits, where that is wanted; it computes in `dtype`."""
    if scheme == "fp8":
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
