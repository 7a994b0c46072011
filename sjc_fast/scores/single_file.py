"""Single checkpoint files of Stable Diffusion 1.x, 2.x and XL, as people publish them, through diffusers' conversion.

A file has weights only. Configurations and tokenizers come from a folder of the same name beside it, where there is
one, else from the hub, where they are a few megabytes of the model that the file was made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from . import hub
from .loading import PartLoader, one_line

XL = "stabilityai/stable-diffusion-xl-base-1.0"
#: The model that a file was made from, by the beginning of a name that only such files hold; the first one counts.
BASES = {
    "conditioner.embedders.1.": XL,
    "cond_stage_model.model.": hub.STABLE_DIFFUSION_2,
    "cond_stage_model.transformer.": hub.STABLE_DIFFUSION,
}
UNET = "model.diffusion_model."
#: Parts of which configurations are needed, and those of XL.
PARTS = ("unet", "vae", "scheduler", "tokenizer", "text_encoder")
XL_PARTS = (*PARTS, "tokenizer_2", "text_encoder_2")


def is_single_file(source: str) -> bool:
    """Whether a model is named by a checkpoint file."""
    return Path(source).suffix == ".safetensors" and Path(source).is_file()


def folder_beside(path: Path) -> Path | None:
    """The folder of a file's own configurations, if there is one."""
    beside = path.with_suffix("")
    return beside if (beside / "model_index.json").is_file() else None


class SingleFileLoader(PartLoader):
    """The parts of a model in one file.

    Args:
        path: the file.

    Raises:
        UserError: it is damaged or holds something else, or configurations for it cannot be had.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        base = base_of(path)
        beside = folder_beside(path)
        parts = XL_PARTS if base == XL else PARTS
        super().__init__(str(beside or hub.fetch_configurations(base, parts)))
        self.source = str(path)

    def _network(self, part: str, kind: Any, **options: Any) -> Any:
        folder = (self.folder or Path()) / part
        try:
            if hasattr(kind, "from_single_file"):
                network = kind.from_single_file(str(self.path), config=str(folder), local_files_only=True, **options)
            else:
                network = self._text_encoder(kind, folder)
        except Exception as error:  # as in `_load`
            said = "the file lacks tensors of it" if "meta tensor" in str(error) else one_line(error)
            raise UserError(f"model {self.source}: cannot load {part}: {said}") from None
        if any(value.is_meta for value in network.state_dict().values()):
            raise UserError(f"model {self.source}: cannot load {part}: the file lacks tensors of it")
        return network

    def _text_encoder(self, kind: Any, folder: Path) -> Any:
        from diffusers.loaders.single_file_utils import (
            create_diffusers_clip_model_from_ldm,
            load_single_file_checkpoint,
        )

        weights: Any = load_single_file_checkpoint(str(self.path))
        return create_diffusers_clip_model_from_ldm(
            kind, weights, config=str(folder), torch_dtype=torch.float32, local_files_only=True
        )


def base_of(path: Path) -> str:
    """The hub id of the model that a file was made from, by the names of its tensors.

    Raises:
        UserError: it is damaged, or of something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"model {path}: it cannot be read: {one_line(error)}") from None
    found = next((base for start, base in BASES.items() if any(name.startswith(start) for name in names)), None)
    if found is None or not any(name.startswith(UNET) for name in names):
        known = "Stable Diffusion 1.x, 2.x or XL"
        raise UserError(f"model {path}: it is not a whole checkpoint of {known}: give such a file, or a folder")
    return found
