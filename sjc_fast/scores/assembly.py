"""From a folder or hub id to a score model: parts are found, checked by their configurations, loaded, put together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import UserError, setting
from .adapters import Adapter
from .attention import check_attention, choose_attention
from .diffusers import DiffusersModel
from .embeddings import Embedding
from .families import adapter_of, model_settings
from .fused_unet import FusedUNet, obstacle
from .layout import TextWithLayout, UNetWithLayout
from .loading import FolderSettings, PartLoader, one_line
from .lora import Lora, parse_lora
from .previews import STABLE_DIFFUSION_SCALE
from .quantize import check_quantization, loading_options, narrow
from .single_file import SingleFileLoader, is_single_file
from .text import ClipText, TextEncoder
from .vae import LatentSpace

LOG = logging.getLogger(__name__)


class Additions(NamedTuple):
    """What people add to a published model."""

    lora: list[Lora]
    embeddings: list[Embedding]


def load_diffusers(
    source: str,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    *,
    attention: str = "sdpa",
    fused: bool = True,
    compiled: bool = False,
    lora: Sequence[str | Path] = (),
    embeddings: Sequence[Path] = (),
    quantize: str = "none",
) -> DiffusersModel:
    """Load a model from a local folder or a hub id, through diffusers' and transformers' own loaders.

    Args:
        dtype: of the network; by default float32 on a CPU, else what is half as wide and the network was made for.
        attention: "sdpa" (PyTorch chooses), "flash", "cudnn", "efficient" or "xformers".
        fused: call the UNet our way (`fused_unet`), where it is of that kind and runs on CUDA.
        compiled: compile the UNet with `torch.compile` instead, at its first call.
        lora: LoRA weights to add to network and text encoders, "path" or "path:weight" each.
        embeddings: learned words (textual inversion) of CLIP's text encoders, .safetensors files.
        quantize: the network's weights in fewer bits: "nf4", "int8" or "fp8".

    Raises:
        UserError: a part is missing, damaged or of another kind, or the hub cannot be reached.
    """
    device = torch.device(device)
    check_attention(attention, device)
    check_quantization(quantize, device, bool(lora))
    loader = open_model(source)
    kind = adapter_of(source, loader.index)
    loader.dtype = dtype or (kind.half if device.type == "cuda" else torch.float32)
    if attention == "xformers" and (kind.network != "unet" or kind.views > 1):
        raise UserError(f"{setting('attention')} xformers: it is not for a {kind.pipeline}; choose sdpa")
    if embeddings and not kind.clip:
        raise UserError(f"{setting('embeddings')} {embeddings[0]}: {source} has no text encoder that takes any")
    parts = needed_parts(kind, loader.index)
    loader.fetch_configurations(parts)
    loader.require(kind.parts)
    words = [Embedding(path) for path in embeddings]
    added = Additions([load_lora(path, kind, loader.config(kind.network)) for path in lora], words)
    scheduler = loader.scheduler(kind.law)  # the small parts first: they say whether the model is of a known kind
    settings = model_settings(source, loader.folder)
    adapter, vae = check_parts(source, kind, loader, settings)
    loader.fetch(parts)
    weights = loader.weights(kind.network, kind.kind, **loading_options(quantize, loader.dtype))
    for each in added.lora:
        each.add_to_network(weights, kind.network)
    narrow(weights, quantize, loader.dtype)
    adapter.adapt(weights)
    choice = choose_attention(weights, attention, device, loader.dtype)
    network = prepare(weights, device, fused=fused and quantize == "none", compiled=compiled)
    if loader.has("layout"):
        network = UNetWithLayout(network, weights.config.in_channels - weights.config.out_channels)
    model = DiffusersModel(
        network,
        scheduler,
        lambda: load_text(loader, adapter, added),
        LatentSpace(loader.vae, vae.get("scaling_factor", STABLE_DIFFUSION_SCALE)) if vae else None,
        upscale=adapter.upscale,
        settings=settings,
        adapter=adapter,
        name=source,
        device=device,
        dtype=loader.dtype,
    )
    model.attention = choice
    model.capturable &= quantize != "fp8"  # whose layers get new memory in every call
    try_words(source, model)
    return model


def check_parts(
    source: str, kind: type[Adapter], loader: PartLoader, settings: FolderSettings
) -> tuple[Adapter, dict[str, Any] | None]:
    """The adapter of a model, and the configuration of its VAE, after all that configurations can tell.

    Raises:
        UserError: parts that do not fit each other, or this program.
    """
    vae = loader.config("vae") if loader.has("vae") else None
    adapter = kind(loader.config(kind.network), upscale_of(vae) if vae else 1)
    adapter.check(source)
    adapter.check_text(source, lambda part, name: loader.config(part).get(name) if loader.has(part) else None)
    check_kind(source, adapter, vae, settings, loader.config("layout") if loader.has("layout") else None)
    return adapter, vae


def try_words(source: str, model: DiffusersModel) -> None:
    """Encode something: whatever is wrong with words is met here, and not in the middle of a run.

    Raises:
        UserError: what.
    """
    try:
        model.encode(["a"])
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"model {source}: its tokenizer and text encoder do not work: {one_line(error)}") from None


def needed_parts(kind: type[Adapter], index: dict[str, Any]) -> list[str]:
    """The parts of a model that are read, by its index: not what checks or enlarges pictures."""
    named = [part for part, entry in index.items() if isinstance(entry, list) and entry and entry[0]]
    words = [part for part in named if part.startswith(("tokenizer", "text_encoder"))]
    rest = [part for part in ("vae", "layout") if part in named or not index]
    return list(dict.fromkeys([*kind.parts, *words, *rest]))


def open_model(source: str) -> PartLoader:
    """The loader of a folder, a single file, or an id of the hub.

    Raises:
        UserError: there is no such model, or it cannot be reached.
    """
    return SingleFileLoader(Path(source)) if is_single_file(source) else PartLoader(source)


def load_lora(text: str | Path, kind: type[Adapter], config: dict[str, Any]) -> Lora:
    """LoRA weights for a kind of model with a network of some configuration, "path" or "path:weight".

    Raises:
        UserError: there are none for it, or these cannot be read.
    """
    import diffusers

    if not hasattr(getattr(diffusers, kind.kind), "load_lora_adapter"):
        raise UserError(f"{setting('lora')} {text}: diffusers cannot add LoRA weights to a {kind.kind}")
    path, weight = parse_lora(text)
    return Lora(path, kind.lora_pipeline or kind.pipeline, weight, config)


def load_text(loader: PartLoader, adapter: Adapter, added: Additions) -> TextEncoder:
    """A model's encoder of words, with LoRA weights, learned words and its layout, if it has any."""
    encoder = adapter.load_text(loader)
    for name, part in encoder.networks.items():
        for lora in added.lora:
            lora.add_to_text_encoder(part, name)
        for embedding in added.embeddings:
            embedding.add_to(encoder.tokenizer_of(name), part, name)
    if loader.has("layout") and isinstance(encoder, ClipText):
        encoder.encoder = TextWithLayout(encoder.encoder, loader.weights("layout"))
    return encoder


def prepare(unet: Any, device: torch.device, *, fused: bool = True, compiled: bool = False) -> Any:
    """The UNet as it is called: compiled, with fused kernels where it runs on CUDA and is of their kind, or itself."""
    if compiled:
        unet.compile(dynamic=False)
    elif fused and device.type == "cuda":
        problem = obstacle(unet)
        if problem is None:
            return FusedUNet(unet)
        LOG.info("the network is called as diffusers does: %s", problem)
    return unet


def check_kind(
    source: str,
    adapter: Adapter,
    vae: dict[str, Any] | None,
    settings: FolderSettings,
    layout: dict[str, Any] | None = None,
) -> None:
    """Refuse networks that want or make something else than pictures that the other parts know.

    Raises:
        UserError: what is wrong with the configurations of the network, `vae` and `layout`.
    """
    what = "UNet" if adapter.network == "unet" else adapter.network
    seen: list[Any] = [adapter.channels, *([layout.get("channels")] if layout else [])]
    counted = all(isinstance(n, int) for n in seen)
    if not counted or adapter.seen != sum(seen):
        raise UserError(f"model {source}: its {what} wants more than an image and a text, which is not supported")
    channels, patch, size = adapter.channels, settings.pixel_patch, adapter.size
    if vae is None and channels != 3 * patch**2:
        raise UserError(
            f"model {source}: without a vae it must make RGB; its {what} has {channels} channels "
            f"for pixel_patch {patch}"
        )
    made = vae.get("latent_channels", channels) if vae else channels
    if made != channels:
        raise UserError(f"model {source}: its vae makes {made} channels, and its {what} denoises {channels}")
    if not isinstance(size, int) or size < 1:
        raise UserError(
            f"model {source}: the sample_size of its {what} is {size!r}, and one number of pixels is needed"
        )
    if layout and layout.get("size") != size:
        raise UserError(f"model {source}: its layout has {layout.get('size')} pixels, its UNet {size}")


def upscale_of(vae: dict[str, Any]) -> int:
    """Pixels a side of one latent, of a VAE's configuration."""
    blocks = vae.get("encoder_block_out_channels") or vae.get("block_out_channels") or [0]
    return 2 ** (len(blocks) - 1)
