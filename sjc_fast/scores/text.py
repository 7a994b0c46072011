"""Encoders of words: prompts to conditions, one row a prompt."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class TextEncoder(Protocol):
    """What encodes prompts, held by a model until it is let go."""

    networks: dict[str, Any]
    """Its networks by the names of their folders."""

    def __call__(self, prompts: list[str], device: torch.device) -> Tensor:
        """Conditions [B, tokens, width] of prompts, encoded on a device."""
        ...


class ClipText:
    """The states of one CLIP text encoder (Stable Diffusion 1.x and 2.x, the embedded model).

    Args:
        tokenizer, encoder: the transformers pair.
    """

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        self.networks = {"text_encoder": encoder}

    @torch.no_grad()
    def __call__(self, prompts: list[str], device: torch.device) -> Tensor:
        self.encoder.to(device)
        length = self.tokenizer.model_max_length
        limit = getattr(self.encoder.config, "max_position_embeddings", length)
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=min(length, limit), truncation=True, return_tensors="pt"
        )
        return self.encoder(tokens.input_ids.to(device)).last_hidden_state


class SdxlText:
    """States of two CLIP text encoders side by side, and behind them the pooled vector of the second, in rows as wide.

    Args:
        pipeline: diffusers' `StableDiffusionXLPipeline`, of which only the text encoders are there.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        names = ("text_encoder", "text_encoder_2")
        self.networks = {name: getattr(pipeline, name).eval().requires_grad_(False) for name in names}

    @torch.no_grad()
    def __call__(self, prompts: list[str], device: torch.device) -> Tensor:
        self.pipeline.to(device)
        states, _, pooled, _ = self.pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        if self.pipeline.config.force_zeros_for_empty_prompt:  # as the pipeline does without a negative prompt
            said = torch.tensor([bool(prompt) for prompt in prompts], device=device)
            states, pooled = states * said[:, None, None], pooled * said[:, None]
        return pack(states, pooled)


class T5Text:
    """The states of a T5 text encoder, and behind them, where the network wants it, which of them are words.

    Args:
        pipeline: diffusers' pipeline, of which only the text encoder is there.
        tokens: that prompts are padded to, where a mask is wanted.
    """

    def __init__(self, pipeline: Any, tokens: int | None = None) -> None:
        self.pipeline, self.tokens = pipeline, tokens
        self.networks = {"text_encoder": pipeline.text_encoder.eval().requires_grad_(False)}

    @torch.no_grad()
    def __call__(self, prompts: list[str], device: torch.device) -> Tensor:
        self.pipeline.to(device)
        options: dict[str, Any] = {"device": device, "do_classifier_free_guidance": False}
        if self.tokens is None:
            return self.pipeline.encode_prompt(prompts, **options)[0]
        states, mask, *_ = self.pipeline.encode_prompt(prompts, max_sequence_length=self.tokens, **options)
        return pack(states, mask)


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
