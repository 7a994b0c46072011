"""LoRA weights: low-rank changes of a UNet and its text encoder, merged into their weights once, so that they cost
nothing afterwards."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, setting
from ..storage.tensors import read_tensors
from .loading import one_line

LAYERS = ("lora_A", "lora_B", "lora_down", "lora_up", "lora.down", "lora.up", "lora_linear_layer")


class Lora:
    """The LoRA weights of a safetensors file (or of a folder with one), in diffusers', PEFT's or kohya's naming.

    Args:
        pipeline: diffusers' name of the pipeline that they are for.

    Raises:
        UserError: there is no such file, it is damaged, or it holds something else.
    """

    def __init__(self, path: Path, pipeline: str = "StableDiffusionPipeline") -> None:
        import diffusers

        self.path = path
        self.pipeline: Any = getattr(diffusers, pipeline)
        try:
            tensors, _ = read_tensors(self._file(path))
            if not any(word in key for key in tensors for word in LAYERS):
                raise ValueError("it holds no LoRA weights")
            found: Any = self.pipeline.lora_state_dict(tensors)  # three only where metadata are asked for
            self._state, self._alphas = found
        except UserError:
            raise
        except Exception as error:  # diffusers' conversions raise many kinds
            raise UserError(f"{setting('lora')} {path}: {one_line(error)}") from None

    @staticmethod
    def _file(path: Path) -> Path:
        if path.is_dir():
            files = sorted(path.glob("*.safetensors"))
            if len(files) != 1:
                raise UserError(
                    f"{setting('lora')} {path}: the folder holds {len(files)} .safetensors files; name one of them"
                )
            return files[0]
        if not path.is_file() or path.suffix != ".safetensors":
            raise UserError(f"{setting('lora')} {path}: give a .safetensors file that exists, or a folder with one")
        return path

    def add_to_unet(self, unet: Any) -> None:
        """Merge the UNet's part into its weights.

        Raises:
            UserError: it is for another network.
        """
        if not any(key.startswith("unet.") for key in self._state):
            return
        self._merge("unet", self.pipeline.load_lora_into_unet, unet)

    def add_to_text_encoder(self, encoder: Any, name: str = "text_encoder") -> None:
        """Merge the part of a text encoder, if there is one, into its weights.

        Raises:
            UserError: it is for another network.
        """
        if any(key.startswith(f"{name}.") for key in self._state):
            load = functools.partial(self.pipeline.load_lora_into_text_encoder, prefix=name)
            self._merge("text encoder", load, encoder)

    def _merge(self, what: str, load: Any, network: torch.nn.Module) -> None:
        from diffusers.utils.peft_utils import recurse_remove_peft_layers
        from peft.tuners.tuners_utils import BaseTunerLayer

        try:
            load(self._state, self._alphas, network)
            layers = [m for m in network.modules() if isinstance(m, BaseTunerLayer)]
            if not layers:
                raise ValueError("nothing in it has a place there")
            for layer in layers:
                layer.merge()
            recurse_remove_peft_layers(network)
        except Exception as error:  # PEFT's and diffusers' complaints are of many kinds
            raise UserError(f"{setting('lora')} {self.path}: it does not fit the {what}: {one_line(error)}") from None
