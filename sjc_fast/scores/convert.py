"""The published checkpoints of MVDream to folders in diffusers' format: ``sjc-fast models --convert FILE``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..storage.tensors import read_tensors
from .load import model_folder
from .loading import PartLoader, one_line
from .multiview import NUMBERS, MultiViewAdapter
from .single_file import UNET

OTHERS = ("scheduler", "tokenizer", "text_encoder", "vae")  # parts that stay as they are
#: MVDream's names of what reads the camera, and those that diffusers' conversion knows.
CAMERA = {"camera_embed.": "label_emb.0."}
SIZE = 32  # latents a side of a view


def convert_mvdream(checkpoint: Path, base: str, output: Path) -> None:
    """Write a folder that `load_score_model` loads, of a checkpoint and the other parts of the model it was made from.

    Args:
        checkpoint: `.safetensors`, or `.pt` of which nothing but tensors is read.
        base: Stable Diffusion 2.1 as a folder or hub id; its text encoder, VAE and noise table are taken as they are.
        output: a folder that does not exist yet.

    Raises:
        UserError: a file that is missing, damaged or of something else; an output that exists.
    """
    if output.exists():
        raise UserError(f"--output {output}: it exists already; give a new folder")
    weights = _read(checkpoint)
    folder = model_folder(base)
    loader = PartLoader(str(folder) if folder else base)
    loader.dtype = torch.float32
    loader.fetch_configurations(["unet"])
    config = loader.config("unet") | {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": NUMBERS,
        "sample_size": SIZE,
    }
    unet = _unet(checkpoint, config, weights)
    loader.fetch(OTHERS)
    loader.require(OTHERS)
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, loader, unet)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The UNet's tensors by MVDream's names."""
    try:
        if checkpoint.suffix == ".safetensors":
            raw: Any = read_tensors(checkpoint)[0]
        else:
            raw = torch.load(checkpoint, map_location="cpu", weights_only=True)
            raw = raw.get("state_dict", raw)
        found = {key.removeprefix(UNET): value for key, value in raw.items() if key.startswith(UNET)}
    except FileNotFoundError:
        raise UserError(f"--convert {checkpoint}: there is no such file") from None
    except Exception as error:  # torch's and safetensors' complaints are of many kinds
        raise UserError(f"--convert {checkpoint}: it cannot be read: {one_line(error)}") from None
    if not any(key.startswith(tuple(CAMERA)) for key in found):
        raise UserError(f"--convert {checkpoint}: it is not a checkpoint of MVDream: nothing in it reads cameras")
    return found


def _unet(checkpoint: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    renamed: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        old = next((name for name in CAMERA if key.startswith(name)), None)
        renamed[UNET + (CAMERA[old] + key.removeprefix(old) if old else key)] = value.float()
    try:
        unet: Any = UNet2DConditionModel.from_config(config)
        unet.load_state_dict(convert_ldm_unet_checkpoint(renamed, config))
    except (RuntimeError, KeyError, IndexError, ValueError) as error:
        raise UserError(f"--convert {checkpoint}: it does not fit the base model: {one_line(error)}") from None
    return unet


def _write(folder: Path, loader: PartLoader, unet: Any) -> None:
    for part in OTHERS:
        shutil.copytree((loader.folder or Path()) / part, folder / part)
    unet.save_pretrained(folder / "unet")
    index = {
        key: value for key, value in loader.index.items() if key in ("scheduler", "tokenizer", "text_encoder", "vae")
    }
    index |= {"_class_name": MultiViewAdapter.pipeline, "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
