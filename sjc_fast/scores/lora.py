"""LoRA weights: low-rank changes of a network and its text encoders, merged into their weights once, so that they cost
nothing afterwards."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import UserError, setting
from ..storage.tensors import read_tensors
from .loading import one_line

LOG = logging.getLogger(__name__)
LAYERS = ("lora_A", "lora_B", "lora_down", "lora_up", "lora.down", "lora.up", "lora_linear_layer")
MOST_WEIGHT = 100.0


def parse_lora(text: str | Path) -> tuple[Path, float]:
    """A path and its weight, of "path" or "path:weight".

    Raises:
        UserError: the weight is no number that makes sense.
    """
    path, colon, weight = str(text).rpartition(":")
    if not colon or not path or Path(text).exists():
        return Path(text), 1.0
    try:
        value = float(weight)
    except ValueError:
        return Path(text), 1.0
    if not abs(value) <= MOST_WEIGHT:
        raise UserError(f"{setting('lora')} {text}: a weight is between -{MOST_WEIGHT:g} and {MOST_WEIGHT:g}")
    return Path(path), value


class Lora:
    """The LoRA weights of a safetensors file (or of a folder with one), in diffusers', PEFT's or kohya's naming.

    Args:
        path: the file or folder.
        pipeline: diffusers' name of the pipeline that they are for.
        weight: what they are multiplied by.
        config: of the network, by which kohya's names of Stable Diffusion XL's blocks are understood.

    Raises:
        UserError: there is no such file, it is damaged, or it holds something else.
    """

    def __init__(
        self,
        path: Path,
        pipeline: str = "StableDiffusionPipeline",
        weight: float = 1.0,
        config: dict[str, Any] | None = None,
    ) -> None:
        import diffusers

        self.path, self.weight, self._config = path, weight, config
        self.pipeline: Any = getattr(diffusers, pipeline)
        try:
            tensors, _ = read_tensors(self._file(path))
            if not any(word in key for key in tensors for word in LAYERS):
                raise ValueError("it holds no LoRA weights")
            self._state, self._alphas = self._converted(tensors)
        except UserError:
            raise
        except Exception as error:  # diffusers' conversions raise many kinds
            raise UserError(f"{setting('lora')} {path}: {one_line(error)}") from None

    def _converted(self, tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Any]:
        """Weights under diffusers' names, and the alphas that were not multiplied into them."""
        convert = self.pipeline.lora_state_dict
        wants = "return_alphas" in inspect.signature(convert).parameters
        options: dict[str, Any] = {"return_alphas": True} if wants else {}
        if self._config and "block_out_channels" in self._config:
            options["unet_config"] = SimpleNamespace(**self._config)
        found: Any = convert(tensors, **options)
        return found if isinstance(found, tuple) else (found, None)

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

    def add_to_network(self, network: Any, part: str) -> None:
        """Merge the part for a UNet or transformer into its weights.

        Raises:
            UserError: it is for another network, or nothing in the file is for any part of this kind of model.
        """
        if any(key.startswith(f"{part}.") for key in self._state):
            options = {"prefix": part, "network_alphas": self._alphas}
            self._merge(
                part, self._layers(part), lambda: network.load_lora_adapter(dict(self._state), **options), network
            )
        elif not any(key.startswith("text_encoder") for key in self._state):
            found = sorted({key.split(".")[0] for key in self._state})
            raise UserError(
                f"{setting('lora')} {self.path}: it does not fit the {part}: it is for {', '.join(found[:3])}"
            )

    def add_to_text_encoder(self, encoder: Any, name: str = "text_encoder") -> None:
        """Merge the part of a text encoder, if there is one, into its weights.

        Raises:
            UserError: it is for another network.
        """
        if any(key.startswith(f"{name}.") for key in self._state):
            load = functools.partial(self.pipeline.load_lora_into_text_encoder, prefix=name)
            self._merge("text encoder", self._layers(name), lambda: load(self._state, self._alphas, encoder), encoder)

    def _layers(self, part: str) -> int:
        """How many layers of a part these weights change."""
        names = (key for key in self._state if key.startswith(f"{part}."))
        return len({re.split(r"\.lora[_.]|\.lora_linear", name)[0] for name in names if not name.endswith("alpha")})

    def _merge(self, what: str, count: int, load: Callable[[], object], network: torch.nn.Module) -> None:
        from diffusers.utils.peft_utils import recurse_remove_peft_layers
        from peft.tuners.tuners_utils import BaseTunerLayer

        try:
            load()
            layers = [m for m in network.modules() if isinstance(m, BaseTunerLayer)]
            if not layers:
                raise ValueError("nothing in it has a place there")
            if len(layers) < count:
                LOG.warning(
                    "lora %s: %d of its %d layers have no place in the %s", self.path, count - len(layers), count, what
                )
            for layer in layers:
                change: Any = layer
                change.scale_layer(self.weight)
                change.merge()
            recurse_remove_peft_layers(network)
        except Exception as error:  # PEFT's and diffusers' complaints are of many kinds
            raise UserError(f"{setting('lora')} {self.path}: it does not fit the {what}: {one_line(error)}") from None
