"""Encoders of words: prompts to conditions, one row a prompt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .embeddings import expand_words

LOG = logging.getLogger(__name__)


class TextEncoder(Protocol):
    """What encodes prompts, held by a model until it is let go."""

    networks: dict[str, Any]
    """Its networks by the names of their folders."""

    def tokenizer_of(self, network: str) -> Any:
        """The tokenizer of one of the networks."""
        ...

    def __call__(self, prompts: list[str], device: torch.device) -> Tensor:
        """Conditions [B, tokens, width] of prompts, encoded on a device. What is too long is cut, with a warning."""
        ...


class ClipText:
    """The states of one CLIP text encoder (Stable Diffusion 1.x and 2.x, the embedded model).

    Args:
        tokenizer, encoder: the transformers pair.
    """

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        self.networks = {"text_encoder": encoder}

    def tokenizer_of(self, network: str) -> Any:  # noqa: ARG002
        """The only one."""
        return self.tokenizer

    @torch.no_grad()
    def __call__(self, prompts: list[str], device: torch.device) -> Tensor:
        self.encoder.to(device)
        prompts = expand_words(prompts, self.tokenizer)
        length = self.tokenizer.model_max_length
        length = min(length, getattr(self.encoder.config, "max_position_embeddings", length))
        warn_of_cuts(self.tokenizer, prompts, length)
        tokens = self.tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.encoder(tokens.input_ids.to(device)).last_hidden_state


class PipelineText:
    """What a diffusers pipeline makes of prompts, as one tensor.

    Args:
        pipeline: one of which only tokenizers and text encoders are there.
        encode: calls it and packs its answers: (pipeline, prompts, device) to conditions.
        tokenizer: the name of the one that reads most of a prompt.
        tokens: that this one may read.
    """

    def __init__(
        self,
        pipeline: Any,
        encode: Callable[[Any, list[str], torch.device], Tensor],
        tokenizer: str = "tokenizer",
        tokens: int | None = None,
    ) -> None:
        self.pipeline, self.encode, self.tokenizer, self.tokens = pipeline, encode, tokenizer, tokens
        parts = {name: part for name, part in pipeline.components.items() if name.startswith("text_encoder") and part}
        self.networks = {name: part.eval().requires_grad_(False) for name, part in parts.items()}

    def tokenizer_of(self, network: str) -> Any:
        """By the pipeline's names."""
        return getattr(self.pipeline, network.replace("text_encoder", "tokenizer"))

    @torch.no_grad()
    def __call__(self, prompts: list[str], device: torch.device) -> Tensor:
        self.pipeline.to(device)
        tokenizer = getattr(self.pipeline, self.tokenizer, None)
        if tokenizer is not None:
            warn_of_cuts(tokenizer, prompts, self.tokens or tokenizer.model_max_length)
        return self.encode(self.pipeline, prompts, device)


def warn_of_cuts(tokenizer: Any, prompts: list[str], length: int) -> None:
    """Say what a text encoder that takes `length` tokens will not see of the longest prompt."""
    longest = max(prompts, key=len)
    tokens = tokenizer(longest, add_special_tokens=False).input_ids
    room = length - (len(tokenizer(longest).input_ids) - len(tokens))
    if len(tokens) > room:
        LOG.warning("the prompt is longer than the model reads; not seen: %s", tokenizer.decode(tokens[room:]).strip())


def encode_sdxl(pipeline: Any, prompts: list[str], device: torch.device) -> Tensor:
    """States of two CLIP text encoders side by side, and behind them the pooled vector of the second."""
    states, _, pooled, _ = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
    if pipeline.config.force_zeros_for_empty_prompt:  # as the pipeline does without a negative prompt
        said = torch.tensor([bool(prompt) for prompt in prompts], device=device)
        states, pooled = states * said[:, None, None], pooled * said[:, None]
    return pack(states, pooled)


def encode_deepfloyd(pipeline: Any, prompts: list[str], device: torch.device) -> Tensor:
    """States of T5."""
    return pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)[0]


def encode_with_mask(pipeline: Any, prompts: list[str], device: torch.device) -> Tensor:
    """States, and behind them which of them are words (PixArt)."""
    states, mask, *_ = pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
    return pack(states, mask)


def encode_sd3(pipeline: Any, prompts: list[str], device: torch.device) -> Tensor:
    """States of two CLIP encoders and of T5 one after the other, and behind them the pooled vectors of the former."""
    options = {"device": device, "do_classifier_free_guidance": False}
    states, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, **options)
    return pack(states, pooled)


def encode_flux(pipeline: Any, prompts: list[str], device: torch.device) -> Tensor:
    """States of T5, and behind them the pooled vector of CLIP."""
    states, pooled, _ids = pipeline.encode_prompt(prompts, None, device=device)
    return pack(states, pooled)


def encode_sana(pipeline: Any, prompts: list[str], device: torch.device) -> Tensor:
    """States of Gemma with a mask: prompts behind the instructions of Sana's authors, nothing as it is."""
    import inspect

    instructions = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
    options = {"device": device, "do_classifier_free_guidance": False}
    rows = [
        pack(*pipeline.encode_prompt(p, complex_human_instruction=instructions if p else None, **options)[:2])
        for p in prompts
    ]
    return torch.cat(rows)


def encode_z_image(pipeline: Any, prompts: list[str], device: torch.device) -> Tensor:
    """States of Qwen, which are as many as a prompt has tokens, padded to `Z_IMAGE_TOKENS`, with a mask."""
    found = pipeline.encode_prompt(list(prompts), device, False, max_sequence_length=Z_IMAGE_TOKENS)[0]
    states = found[0].new_zeros(len(found), Z_IMAGE_TOKENS, found[0].shape[1])
    mask = found[0].new_zeros(len(found), Z_IMAGE_TOKENS)
    for i, words in enumerate(found):
        states[i, : len(words)], mask[i, : len(words)] = words, 1
    return pack(states, mask)


Z_IMAGE_TOKENS = 512  # as its pipeline has it


def pack(states: Tensor, *vectors: Tensor) -> Tensor:
    """States [B, T, W] with vectors [B, n] behind them, each in rows of W numbers, the last filled with zeros."""
    rows = [states]
    for vector in vectors:
        padded = torch.nn.functional.pad(vector.to(states), (0, -vector.shape[1] % states.shape[2]))
        rows.append(padded.unflatten(1, (-1, states.shape[2])))
    return torch.cat(rows, dim=1)


def unpack(packed: Tensor, *lengths: int) -> tuple[Tensor, ...]:
    """What `pack` was given, of vectors of such lengths."""
    width = packed.shape[2]
    rows = [-(-length // width) for length in lengths]
    states, *parts = packed.split([packed.shape[1] - sum(rows), *rows], dim=1)
    return states, *(part.flatten(1)[:, :length] for part, length in zip(parts, lengths, strict=True))
