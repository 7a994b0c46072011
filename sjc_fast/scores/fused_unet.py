"""A Stable-Diffusion-shaped UNet, called our way: diffusers' module and weights, fused kernels between its products.

PyTorch's own calls copy every feature map out of the channels-last order to normalize it and back, add each bias and
each residual in a pass of its own, and multiply by 1.0. Here feature maps are [B, h, w, C] throughout, which is
channels-last memory. Sums wait until a normalization reads them (`Waiting`), and a matrix product adds to what is there
already. Nothing of the module changes, so that weights loaded or merged into it count.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from ..kernels.unet import geglu, group_norm, layer_norm

#: Kinds of blocks that are known here, and settings of a UNet that none of them may have.
BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D", "UpBlock2D"}
EXTRAS = (
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim_type",
    "timestep_post_act",
    "time_embedding_act_fn",
    "time_cond_proj_dim",
    "center_input_sample",
    "dual_cross_attention",
)
LARGEST = 2**31 - 2**17
"""Numbers of a tensor, at most: kernels count in 32 bits. The largest is a gated perceptron's at the first level."""


@dataclass
class Waiting:
    """A feature map [B, h, w, C] with terms that are still to be added to it."""

    value: Tensor
    residual: Tensor | None = None  # like value
    bias: Tensor | None = None  # [C]

    def settle(self) -> Tensor:
        """The sum, taken now."""
        for term in (self.residual, self.bias):
            if term is not None:
                self.value += term
        self.residual = self.bias = None
        return self.value

    def normalize(self, norm: nn.GroupNorm, *, silu: bool) -> Tensor:
        """The normalized sum; the sum itself stays."""
        terms = {"residual": self.residual, "bias": self.bias}
        out, self.value = _group_norm(norm, self.value, silu=silu, keep=True, **terms)
        self.residual = self.bias = None
        return out


class FusedUNet(nn.Module):
    """A `UNet2DConditionModel` with the same answers, to rounding.

    Args:
        unet: one that `obstacle` finds nothing in.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet, self.config = unet, unet.config
        time: Any = unet.time_proj
        half = time.num_channels // 2
        places = torch.arange(half, device=unet.conv_in.weight.device)
        exponent = places * -math.log(10000) / (half - time.downscale_freq_shift)
        self.register_buffer("frequencies", torch.exp(exponent), persistent=False)

    def forward(
        self, x: Tensor, tick: Tensor, text: Tensor, added_cond_kwargs: dict[str, Tensor] | None = None, **_: Any
    ) -> tuple[Tensor]:
        """The answer to inputs [B, C, h, w], noise levels [B] and conditions [B, tokens, width], in a tuple.

        Args:
            added_cond_kwargs: of Stable Diffusion XL, ``text_embeds`` [B, n] and ``time_ids`` [B, 6].
        """
        unet: Any = self.unet
        if any(side % 2**unet.num_upsamplers for side in x.shape[2:]):  # which its own code rounds up and cuts
            return unet(x, tick, text, added_cond_kwargs=added_cond_kwargs, return_dict=False)
        most = max(1, LARGEST // (8 * unet.config.block_out_channels[0] * x[0, 0].numel()))
        if len(x) > most:
            added = added_cond_kwargs or {}
            parts = zip(*(given.split(most) for given in (x, tick, text, *added.values())), strict=True)
            return (torch.cat([self(*part[:3], dict(zip(added, part[3:], strict=True)))[0] for part in parts]),)
        time = unet.time_embedding(self._embed(tick).to(x.dtype))
        more = unet.get_aug_embed(time, text, added_cond_kwargs)
        time = functional.silu(time if more is None else time + more)
        h = Waiting(_convolve(unet.conv_in, x.permute(0, 2, 3, 1)), bias=unet.conv_in.bias)
        skips = [h]
        for block in unet.down_blocks:
            for resnet, transformer in _layers(block):
                h = _transform(transformer, _resnet(resnet, h, time), text)
                skips.append(h)
            for sampler in block.downsamplers or ():
                h = Waiting(_convolve(sampler.conv, h.settle()), bias=sampler.conv.bias)
                skips.append(h)
        first, *rest = unet.mid_block.resnets
        h = _resnet(first, h, time)
        for transformer, resnet in zip(unet.mid_block.attentions, rest, strict=True):
            h = _resnet(resnet, _transform(transformer, h, text), time)
        for block in unet.up_blocks:
            for resnet, transformer in _layers(block):
                h = _transform(transformer, _resnet(resnet, h, time, skips.pop().settle()), text)
            for sampler in block.upsamplers or ():
                h = Waiting(_convolve(sampler.conv, _double(h.settle())), bias=sampler.conv.bias)
        out = h.normalize(unet.conv_norm_out, silu=True)
        last = unet.conv_out
        return (functional.conv2d(out.permute(0, 3, 1, 2), last.weight, last.bias, padding=last.padding),)

    def _embed(self, tick: Tensor) -> Tensor:
        """Sines and cosines of the noise levels, [B, channels] float32, as diffusers' `Timesteps` makes them."""
        settings: Any = self.config
        angles = tick[:, None].float() * self.get_buffer("frequencies")
        waves = [angles.cos(), angles.sin()]
        return torch.cat(waves if settings.flip_sin_to_cos else waves[::-1], dim=1)


def obstacle(unet: Any) -> str | None:
    """What keeps a network from being called our way; None if nothing does."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if type(unet) is not UNet2DConditionModel:
        return f"it is a {type(unet).__name__}"
    c: Any = unet.config
    if not set(c.down_block_types) | set(c.up_block_types) | {c.mid_block_type} <= BLOCKS:
        return "it has blocks of another kind"
    if any(c.get(name) not in (None, False) for name in EXTRAS):
        return "it wants more than an image, a noise level and a text"
    if c.addition_embed_type not in (None, "text_time"):
        return f"it wants {c.addition_embed_type!r} beside a text"
    if c.time_embedding_type != "positional" or c.norm_num_groups is None or c.block_out_channels[0] % 2:
        return "its noise level or its answer goes another way"
    for module in unet.modules():
        problem = _odd(module)
        if problem:
            return problem
    return None


def _odd(module: nn.Module) -> str | None:
    """What of a part is not as Stable Diffusion has it."""
    m: Any = module
    if isinstance(module, ResnetBlock2D):
        plain = m.time_embedding_norm == "default" and m.output_scale_factor == 1 and not m.skip_time_act
        plain = plain and m.upsample is None and m.downsample is None and type(m.nonlinearity) is nn.SiLU
        return None if plain else "it has residual blocks of another kind"
    if isinstance(module, Transformer2DModel):
        return None if m.is_input_continuous else "it has transformers of another kind"
    if isinstance(module, BasicTransformerBlock):
        plain = m.norm_type == "layer_norm" and m.attn2 is not None and m.pos_embed is None
        plain = plain and not m.only_cross_attention and m._chunk_size is None
        return None if plain else "it has transformer blocks of another kind"
    if isinstance(module, (Downsample2D, Upsample2D)):
        convolves = m.use_conv and m.norm is None and type(m.conv) is nn.Conv2d and m.conv.padding == (1, 1)
        return None if convolves else "it changes size in another way"
    return None


def _layers(block: Any) -> list[tuple[Any, Any]]:
    """Pairs of a block's residual blocks and the transformers behind them; None where there is none."""
    transformers = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, transformers, strict=True))


def _group_norm(norm: nn.GroupNorm, x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return group_norm(x, norm.weight, norm.bias, norm.num_groups, norm.eps, **options)


def _convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of [B, h, w, C] without its bias."""
    image = functional.conv2d(x.permute(0, 3, 1, 2), layer.weight, None, layer.stride, layer.padding)
    return image.permute(0, 2, 3, 1).contiguous()  # a view, unless the convolution left another order


def _project(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """A matrix product over channels, which a convolution with a kernel of one pixel is too."""
    return functional.linear(x, layer.weight.flatten(1), layer.bias)


def _add_product(to: Tensor, layer: nn.Conv2d | nn.Linear, x: Tensor) -> None:
    """Add the product of a layer, without its bias, to what is there."""
    weight = layer.weight.flatten(1)
    to.view(-1, to.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), weight.t())


def _double(x: Tensor) -> Tensor:
    """The nearest pixel, at twice the size."""
    images, height, width, channels = x.shape
    wide = x[:, :, None, :, None].expand(images, height, 2, width, 2, channels)
    return wide.reshape(images, 2 * height, 2 * width, channels)


def _resnet(block: Any, x: Waiting, time: Tensor, skip: Tensor | None = None) -> Waiting:
    """A residual block. `x` is summed in it, where no `skip` is put behind its channels."""
    if skip is None:
        h = x.normalize(block.norm1, silu=True)
    else:
        terms = {"residual": x.residual, "bias": x.bias, "skip": skip}
        h, total = _group_norm(block.norm1, x.value, silu=True, keep=True, **terms)
        x = Waiting(total)
    h = _convolve(block.conv1, h)
    shift = block.time_emb_proj(time)
    h, _ = _group_norm(block.norm2, h, bias=block.conv1.bias, shift=shift, silu=True)
    h = _convolve(block.conv2, h)
    residual = x.value if block.conv_shortcut is None else _project(block.conv_shortcut, x.value)
    return Waiting(h, residual, block.conv2.bias)


def _transform(transformer: Any | None, x: Waiting, text: Tensor) -> Waiting:
    """A spatial transformer, added to its own input; x itself without one."""
    if transformer is None:
        return x
    normal = x.normalize(transformer.norm, silu=False)
    tokens = _project(transformer.proj_in, normal).flatten(1, 2)
    for block in transformer.transformer_blocks:
        tokens = _attend(block.attn1, block.norm1, tokens, None)
        tokens = _attend(block.attn2, block.norm2, tokens, text)
        tokens = _feed(block.ff, block.norm3, tokens)
    _add_product(x.value, transformer.proj_out, tokens)
    return Waiting(x.value, bias=transformer.proj_out.bias)


def _normal(norm: nn.LayerNorm, tokens: Tensor, ahead: Tensor | None = None) -> Tensor:
    return layer_norm(tokens, norm.weight, norm.bias, norm.eps, ahead=ahead)


def _attend(attention: Any, norm: nn.LayerNorm, tokens: Tensor, text: Tensor | None) -> Tensor:
    """Attention, added to its own input [B, P, C]."""
    if type(attention.processor) is not AttnProcessor2_0 or attention.norm_q is not None:
        return tokens + attention(_normal(norm, tokens), encoder_hidden_states=text)
    out = attention.to_out[0]
    normal = _normal(norm, tokens, out.bias)
    seen = normal if text is None else text
    query, key, value = attention.to_q(normal), attention.to_k(seen), attention.to_v(seen)
    query, key, value = (t.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for t in (query, key, value))
    answer = functional.scaled_dot_product_attention(query, key, value)
    _add_product(tokens, out, answer.transpose(1, 2).flatten(2))
    return tokens


def _feed(feed: Any, norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    """The perceptron of every token, added to its own input [B, P, C]."""
    enter, _dropout, leave = feed.net[:3]
    if type(enter) is not GEGLU:
        return tokens + feed(_normal(norm, tokens))
    normal = _normal(norm, tokens, leave.bias)
    _add_product(tokens, leave, geglu(enter.proj(normal)))
    return tokens
