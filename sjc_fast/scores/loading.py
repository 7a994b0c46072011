"""The parts of a model on disk or on the hub: a folder's own settings, and every loading failure as one line."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from logging import CRITICAL
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from . import hub
from .preconditioning import predictions
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch


#: Files of which a tokenizer has one.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
VAES = ("AutoencoderKL", "AutoencoderDC")


@dataclass
class FolderSettings:
    """A model folder's own `sjc_fast.json`, or nothing special."""

    name: str = ""
    pixel_patch: int = 1
    timestep: str = "nearest"
    """"nearest" tick of the noise table, or "interpolated" between ticks."""
    vocabulary: Vocabulary | None = None
    scenes: str = ""
    """What its pictures show, where that is known exactly: "shapes", or nothing."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """A partial configuration tree for `train`."""
    guidance: float | None = None
    """The guidance scale among these, where the file itself has one."""

    @classmethod
    def read(cls, folder: Path) -> FolderSettings:
        """Settings of a local folder; the plain ones if it has no `sjc_fast.json`."""
        path = folder / "sjc_fast.json"
        if not path.exists():
            return cls()
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            words = raw.get("vocabulary")
            vocabulary = Vocabulary.read(words) if words else None
            patch, timestep = raw.get("pixel_patch", 1), raw.get("timestep", "nearest")
            if not isinstance(patch, int) or not 1 <= patch <= 64 or timestep not in ("nearest", "interpolated"):
                raise ValueError(f"pixel_patch {patch} or timestep {timestep!r}")
            guidance = raw.get("defaults", {}).get("guidance")
            personal = {"prompt", "model", "output", "resume", "device", "seed"} & set(raw.get("defaults", {}))
            if personal:
                raise ValueError(f"defaults may not set {', '.join(sorted(personal))}")
            return cls(
                name=str(raw.get("name", folder.name)),
                pixel_patch=patch,
                timestep=timestep,
                vocabulary=vocabulary,
                scenes=str(raw.get("scenes", "")),
                defaults=dict(raw.get("defaults", {})),
                guidance=float(guidance) if isinstance(guidance, int | float) else None,
            )
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is not valid: {error}") from None


class PartLoader:
    """The parts of one model, from a folder or the hub, every failure as one line.

    Args:
        source: a folder, or an id of the hub, of which only small files are read until `fetch` is called.

    Raises:
        UserError: there is no such model on the hub, or it cannot be reached.
    """

    dtype: torch.dtype
    """Of weights; set before they are loaded."""

    def __init__(self, source: str) -> None:
        self.source, self.local = source, Path(source).is_dir()
        self.folder = Path(source) if self.local else hub.small_files(source)
        _quiet()

    def fetch(self, parts: Iterable[str]) -> None:
        """Download the parts that are not here yet, if the model is of the hub.

        Raises:
            UserError: why not.
        """
        if not self.local:
            self.folder = hub.fetch(self.source, parts, self._variants)

    def fetch_configurations(self, parts: Iterable[str]) -> None:
        """As `fetch`, but without weights."""
        if not self.local:
            self.folder = hub.fetch_configurations(self.source, parts)

    @property
    def _variants(self) -> tuple[str, ...]:
        """Of weights, the best one first."""
        return hub.variants_for(str(self.dtype))

    def require(self, parts: Iterable[str]) -> None:
        """Refuse a model that lacks a part, or words in its tokenizers.

        Raises:
            UserError: which.
        """
        missing = [part for part in parts if not self.has(part)]
        if missing:
            known = ", ".join(parts)
            raise UserError(f"model folder {self.source} lacks {', '.join(missing)}: a diffusers folder has {known}")
        for part in (self.folder or Path()).glob("tokenizer*"):
            if not any((part / name).exists() for name in VOCABULARIES):  # transformers would make up an empty one
                raise UserError(f"model {self.source}: its {part.name} has no vocabulary: {', '.join(VOCABULARIES)}")

    @functools.cached_property
    def index(self) -> dict[str, Any]:
        """What `model_index.json` says of the pipeline and its parts; nothing for a folder without one."""
        return read_index(self.source, self.folder)

    def pipeline(self, kind: str, *, large: bool = False, **parts: Any) -> Any:
        """A pipeline of the model in the loader's precision, with the parts that are given in place of its own.

        Large text encoders (T5, Gemma, Qwen) were trained in bfloat16, and their numbers are too large for float16.
        """
        import diffusers
        import torch

        dtype = torch.bfloat16 if large and self.dtype == torch.float16 else self.dtype
        encoders = [part for part in self.index if part.startswith("text_encoder") and part not in parts]
        parts |= {part: self.text_encoder(part, dtype) for part in encoders if self.has(part)}
        return self._load("its tokenizers", getattr(diffusers, kind).from_pretrained, "", **parts)

    def has(self, part: str) -> bool:
        """Whether there is a folder of such a part."""
        return self.folder is not None and (self.folder / part).is_dir()

    def _load(self, part: str, call: Any, place: str | None = None, **options: Any) -> Any:
        """By path: every loader takes one, and none then asks the hub."""
        try:
            return call(str((self.folder or Path()) / (part if place is None else place)), **options)
        except Exception as error:  # the loaders raise many kinds; to the caller they are one
            raise UserError(f"model {self.source}: cannot load {part}: {one_line(error)}") from None

    def config(self, part: str) -> dict[str, Any]:
        """A part's configuration, without its weights."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        kind = DDIMScheduler if part == "scheduler" else UNet2DConditionModel  # they differ in the file's name
        config = self._load(part, kind.load_config)
        if not isinstance(config, dict):
            raise UserError(f"model {self.source}: the configuration of {part} is not a table of settings")
        return config

    def scheduler(self, law: str) -> Any:
        """The noise table, whatever sampler the model ships with; None where the law "flow" needs none.

        Raises:
            UserError: the model's noise is of another law, or it predicts something else.
        """
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        config = self.config("scheduler")
        flows = "FlowMatch" in str(config.get("_class_name")) or config.get("prediction_type") == "flow_prediction"
        if law == "flow":
            if not flows:
                raise UserError(f"model {self.source}: {config.get('_class_name')} is not a scheduler of flow models")
            return None
        if (
            flows
            or "beta_schedule" not in config
            or config.get("prediction_type", "epsilon") not in predictions("beta")
        ):
            kind = f"{config.get('_class_name')} with prediction type {config.get('prediction_type')!r}"
            known = ", ".join(predictions("beta"))
            raise UserError(f"model {self.source}: {kind} is not supported; known: {known} on a beta schedule")
        return self._load("scheduler", DDIMScheduler.from_pretrained)

    def vae(self) -> Any:
        """The VAE, in float32 where it says that float16 is too little for it (Stable Diffusion XL's)."""
        import torch

        name = self.config("vae").get("_class_name", VAES[0])
        if name not in VAES:
            raise UserError(
                f"model {self.source}: its vae is a {name}, which is not supported; known: {', '.join(VAES)}"
            )
        vae = self.weights("vae", name)
        return vae.float() if vae.config.get("force_upcast") and vae.dtype == torch.float16 else vae

    def tokenizer(self) -> Any:
        """The tokenizer, by whatever class its folder names."""
        from transformers import AutoTokenizer

        return self._load("tokenizer", AutoTokenizer.from_pretrained)

    def weights(self, part: str, name: str | None = None, **options: Any) -> Any:
        """A network, in the loader's precision, from safetensors only, with every tensor found.

        Args:
            name: diffusers' name of its class, where the part may be of several.
            options: for its loader, such as a quantization, with which it stays as it was loaded.

        Raises:
            UserError: it is missing, damaged, of another class, or lacks tensors (the libraries would make those up at
                random).
        """
        import diffusers
        from transformers import CLIPTextModel

        from .layout import LayoutDecoder

        if name:
            said = self.config(part).get("_class_name", name)
            if said != name:
                raise UserError(f"model {self.source}: its {part} is a {said}, and a {name} is needed")
        kind: Any = {"text_encoder": CLIPTextModel, "layout": LayoutDecoder}.get(part)
        kind = kind or getattr(diffusers, name or "AutoencoderKL")
        precision = {"torch_dtype": self.dtype} if part != "text_encoder" else {}
        network = self._network(part, kind, **precision, **options)
        return network if options else network.to(self.dtype)

    def text_encoder(self, part: str, dtype: torch.dtype) -> Any:
        """One of transformers' networks, of the class that the model's index names, with every tensor found.

        Raises:
            UserError: as `weights`.
        """
        import transformers

        name = (self.index.get(part) or ["", ""])[1]
        kind = getattr(transformers, str(name), None)
        if kind is None:
            raise UserError(f"model {self.source}: its {part} is a {name}, which transformers does not know")
        return self._network(part, kind).to(dtype)

    def _network(self, part: str, kind: Any, **options: Any) -> Any:
        folder = (self.folder or Path()) / part
        variant = hub.choose_variant([path.name for path in folder.glob("*")], self._variants)
        options |= {"use_safetensors": True, "output_loading_info": True, "variant": variant or None}
        network, info = self._load(part, kind.from_pretrained, **options)
        absent = [k for k in info["missing_keys"] if not k.endswith(("position_ids", "encoder.embed_tokens.weight"))]
        if absent or info.get("mismatched_keys"):
            raise UserError(f"model {self.source}: cannot load {part}: its weights lack {len(absent)} tensors")
        return network


def read_index(source: str, folder: Path | None) -> dict[str, Any]:
    """What a folder's `model_index.json` says; nothing where there is none.

    Raises:
        UserError: it is not a table.
    """
    path = folder / "model_index.json" if folder else None
    if path is None or not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"model {source}: cannot load model_index.json: {one_line(error)}") from None


def _quiet() -> None:
    """Parts load in a moment, without bars; downloads keep theirs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity(CRITICAL)
        library.disable_progress_bar()


def one_line(error: BaseException) -> str:
    """What an error says, on one line, cut where it gets long."""
    return " ".join((str(error) or type(error).__name__).split())[:300]
