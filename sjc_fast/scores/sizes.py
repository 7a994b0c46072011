"""How large a model is, and what a call of its network costs: counted from its configurations, without weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UserError
from .adapters import Adapter
from .assembly import open_model, upscale_of
from .families import adapter_of
from .loading import PartLoader, one_line


class ModelSize(NamedTuple):
    """A model by its configurations."""

    pipeline: str
    channels: int
    side: int  # of what is denoised
    parameters: dict[str, int]  # by part
    flops: int  # of the network, for one input: two a multiplication and its addition

    @property
    def half_bytes(self) -> int:
        """Of all parts in 16 bits."""
        return 2 * sum(self.parameters.values())


def measure_model(source: str) -> ModelSize:
    """Count a model in a folder or on the hub, of which only configurations are read.

    Raises:
        UserError: there is no such model, or it is of a kind that is not known.
    """
    loader = open_model(source)
    kind = adapter_of(source, loader.index)
    encoders = [part for part in loader.index if part.startswith("text_encoder")] or ["text_encoder"]
    loader.fetch_configurations([kind.network, *(["vae"] if "vae" in loader.index else []), *encoders])
    adapter = kind(loader.config(kind.network), upscale_of(loader.config("vae")) if loader.has("vae") else 1)
    adapter.check(source)
    try:
        with torch.device("meta"):
            network = _diffusers(kind.kind, adapter.config)
            adapter.adapt(network)
            parameters = {kind.network: _count(network)}
            flops = _flops(network, adapter)
            if loader.has("vae"):
                vae = loader.config("vae")
                parameters["vae"] = _count(_diffusers(vae.get("_class_name", "AutoencoderKL"), vae))
            for part in filter(loader.has, encoders):
                parameters[part] = _count(_transformers(loader, part))
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"model {source}: its configurations cannot be counted: {one_line(error)}") from None
    return ModelSize(kind.pipeline, adapter.channels, adapter.size, parameters, flops)


def count_network(kind: type[Adapter], config: dict[str, Any]) -> dict[str, Any]:
    """Parameters, operations of a call with one input, and the input's shape, of a network by its configuration.

    Args:
        config: what differs from the defaults of diffusers' class.
    """
    with torch.device("meta"):
        network = _diffusers(kind.kind, config)
        adapter = kind(dict(network.config), 8)
        adapter.adapt(network)
        flops = _flops(network, adapter)
    shape = [adapter.channels, adapter.size, adapter.size]
    return {"parameters": _count(network), "flops": flops, "shape": shape}


def _diffusers(name: str, config: dict[str, Any]) -> Any:
    import diffusers

    return getattr(diffusers, name).from_config(config)


def _transformers(loader: PartLoader, part: str) -> Any:
    import transformers

    name = (loader.index.get(part) or ["", "CLIPTextModel"])[1]
    config: Any = transformers.AutoConfig.from_pretrained(str((loader.folder or "") / part))  # pyright: ignore
    return getattr(transformers, name)(config)


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _flops(network: torch.nn.Module, adapter: Adapter) -> int:
    """Of one call with one input, by shapes alone."""
    side, views = adapter.size, adapter.views
    x = torch.empty(views, adapter.seen, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        adapter.ask(network.eval(), x, torch.empty(views), torch.empty(views, *adapter.condition_shape()))
    return counter.get_total_flops() // views
