"""`load_score_model`: from a name, folder or hub id to something that can score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UserError
from . import hub
from .hub import STABLE_DIFFUSION
from .loading import FolderSettings
from .single_file import folder_beside, is_single_file

if TYPE_CHECKING:
    from .diffusers import DiffusersModel

EMBEDDED = "shapes"

_PACKAGE = Path(__file__).parent.parent


def embedded_folder() -> Path:
    """Where the embedded model's weights lie."""
    return _PACKAGE / "shapes" / "weights"


def model_folder(name: str) -> Path | None:
    """The local folder (or single file) a model name stands for, or None for a hub id.

    Raises:
        UserError: neither the embedded model, nor a folder, nor shaped like a hub id.
    """
    if name == EMBEDDED:
        return embedded_folder()
    if name and Path(name).is_dir():
        return Path(name)
    if is_single_file(name):
        return Path(name)
    shaped = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name)
    if shaped and not name.startswith((".", "/", "~")) and not Path(name).exists():
        return None
    raise UserError(
        f"no model {name!r}: give 'shapes', a diffusers folder or .safetensors file that exists, or a hub id such as "
        f"{STABLE_DIFFUSION}"
    )


def folder_settings(name: str) -> FolderSettings:
    """What a model's own `sjc_fast.json` says, over what suits its kind; the plain ones where the hub does not answer.

    Raises:
        UserError: no such folder, or the file is wrong.
    """
    from .families import model_settings

    folder = model_folder(name)
    if is_single_file(name):
        folder = folder_beside(Path(name))
    elif folder is None:
        try:
            folder = hub.small_files(name)
        except UserError:  # which loading the model will say again
            return FolderSettings()
    return model_settings(name, folder)


def load_score_model(
    name: str = EMBEDDED,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    attention: str = "sdpa",
    fused: bool = True,
    compiled: bool = False,
    lora: Sequence[str | Path] | str | Path | None = (),
    embeddings: Sequence[Path] = (),
    quantize: str = "none",
) -> DiffusersModel:
    """Load a score model.

    Args:
        name: "shapes" (the embedded model, no download), a diffusers-format folder, or a hub id.
        device: where it runs; default CUDA if there is one.
        dtype: precision of the network; default float32 on a CPU, else float16, or bfloat16 where it was made for it.
        attention: "sdpa" (PyTorch chooses), "flash", "cudnn", "efficient" or "xformers" (an optional package).
        fused: call a network of Stable Diffusion's kind with fused kernels, where it runs on CUDA.
        compiled: compile the network with `torch.compile` instead, at its first call.
        lora: LoRA weights to add, one or several .safetensors files, each "path" or "path:weight".

        embeddings: learned words (textual inversion) for CLIP's text encoders, .safetensors files.
        quantize: the network's weights in fewer bits: "nf4", "int8" (bitsandbytes, CUDA) or "fp8".

    Raises:
        UserError: no such model, or a part of it is missing or damaged.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    from .assembly import load_diffusers

    folder = model_folder(name)
    source = str(folder) if folder else name
    added = [lora] if isinstance(lora, str | Path) else list(lora or ())
    options: dict[str, Any] = {"attention": attention, "fused": fused, "compiled": compiled}
    options |= {"lora": added, "embeddings": embeddings, "quantize": quantize}
    return load_diffusers(source, device, dtype, **options)
