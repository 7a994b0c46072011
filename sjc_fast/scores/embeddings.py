"""Textual inversion (Gal et al., arXiv 2208.01618): words whose embeddings were learned, for CLIP's text encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, setting
from ..storage.tensors import read_tensors
from .loading import one_line

#: What files for Stable Diffusion XL call the parts of its two encoders, by the encoders' folders.
PARTS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def _loader(tokenizer: Any, encoder: Any = None) -> Any:
    """Diffusers' loader, with a tokenizer and its encoder where it looks for a pipeline's."""
    from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin

    parts = {"tokenizer": tokenizer, "text_encoder": encoder, "components": {}, "hf_device_map": None}
    return type("Vocabulary", (TextualInversionLoaderMixin,), parts)()


class Embedding:
    """The learned embeddings of one word, in diffusers' naming or, with two encoders, by the encoders' names.

    Args:
        path: a .safetensors file. The word is what the file says, else its name without the suffix.

    Raises:
        UserError: there is no such file, it is damaged, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.suffix != ".safetensors" or not path.is_file():
                raise ValueError("give a .safetensors file that exists")
            self.tensors, _ = read_tensors(path)
            both = set(PARTS.values()) <= set(self.tensors)
            if not both and len(self.tensors) != 1:
                raise ValueError("it holds no embeddings of one word")
        except (ValueError, OSError) as error:
            raise UserError(f"{setting('embeddings')} {path}: {one_line(error)}") from None
        (key, *_) = self.tensors
        self.word = path.stem if both or key == "emb_params" else key

    def add_to(self, tokenizer: Any, encoder: Any, name: str = "text_encoder") -> None:
        """Teach a tokenizer and its encoder the word.

        Raises:
            UserError: it is for another encoder, or the word is known already.
        """
        value: torch.Tensor | None = self.tensors.get(PARTS[name])
        if value is None and len(self.tensors) == 1 and name == "text_encoder":
            (value,) = self.tensors.values()
        if value is None:
            return
        try:
            _loader(tokenizer, encoder).load_textual_inversion({self.word: value})
        except Exception as error:  # diffusers' complaints are of many kinds; this one prints its own source
            width = encoder.get_input_embeddings().weight.shape[1]
            said = one_line(error)
            if value.shape[-1] != width:
                said = f"its embeddings have {value.shape[-1]} numbers, and the {name} reads {width}"
            raise UserError(f"{setting('embeddings')} {self.path}: {said}") from None


def expand_words(prompts: list[str], tokenizer: Any) -> list[str]:
    """Prompts in which words of several embeddings are as many words."""
    return _loader(tokenizer).maybe_convert_prompt(prompts, tokenizer)
