"""Every kind of pipeline that can score, by the name that diffusers gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from .adapters import Adapter, DeepFloydAdapter, PixArtAdapter, SdxlAdapter
from .flow import FluxAdapter, SanaAdapter, StableDiffusion3Adapter, ZImageAdapter
from .loading import FolderSettings, read_index
from .multiview import MultiViewAdapter

#: A new kind is a row.
ADAPTERS: dict[str, type[Adapter]] = {
    kind.pipeline: kind
    for kind in (
        Adapter,
        SdxlAdapter,
        DeepFloydAdapter,
        PixArtAdapter,
        MultiViewAdapter,
        StableDiffusion3Adapter,
        FluxAdapter,
        SanaAdapter,
        ZImageAdapter,
    )
}


def adapter_of(source: str, index: dict[str, Any]) -> type[Adapter]:
    """The adapter for a model, by what its `model_index.json` says (nothing, where it has none).

    What is not known and has a UNet with a text encoder is taken for Stable Diffusion: many pipelines share its parts.

    Raises:
        UserError: it is of a kind that is not known.
    """
    name = index.get("_class_name")
    if name in ADAPTERS:
        return ADAPTERS[name]
    if name is None or {"unet", "text_encoder"} <= set(index):
        return Adapter
    raise UserError(f"model {source} is a {name}, which is not supported; known: {', '.join(ADAPTERS)}")


def model_settings(source: str, folder: Path | None) -> FolderSettings:
    """What a model's own `sjc_fast.json` says, over what suits its kind.

    Raises:
        UserError: the file is wrong, or the model is of a kind that is not known.
    """
    own = FolderSettings.read(folder) if folder else FolderSettings()
    own.defaults = _over(adapter_of(source, read_index(source, folder)).defaults, own.defaults)
    return own


def _over(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """A tree of settings over another."""
    pairs = {key: (base.get(key), value) for key, value in tree.items()}
    both = {k: _over(b, v) if isinstance(b, dict) and isinstance(v, dict) else v for k, (b, v) in pairs.items()}
    return base | both
