"""A UNet called our way against diffusers' own call of the same weights."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from sjc_fast.rendering.checks import DEVICE
from sjc_fast.scores import fused_unet
from sjc_fast.scores.assembly import prepare
from sjc_fast.scores.fused_unet import FusedUNet, obstacle
from tests.support import pipelines

TINY = pipelines.SHAPES["tiny"]["unet"]
CASES = {
    "Stable Diffusion 1": {},
    "Stable Diffusion 2": {"use_linear_projection": True, "attention_head_dim": (2, 4)},
    "deep": {
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32, 48),
        "layers_per_block": 2,
    },
}


def make(**changes):
    """A tiny UNet whose biases are not zero either."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(in_channels=4, out_channels=4, **(TINY | changes))
    for parameter in unet.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return unet.eval().requires_grad_(False).to(DEVICE, memory_format=torch.channels_last)


def question(dtype=torch.float32, side=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, side, side, generator=generator).to(DEVICE, dtype, memory_format=torch.channels_last)
    text = torch.randn(2, 7, 32, generator=generator).to(DEVICE, dtype)
    return x, torch.tensor([3.5, 800.0], device=DEVICE), text


def difference(a, b):
    """Relative, root mean square."""
    return float((a.float() - b.float()).norm() / b.float().norm())


@torch.no_grad()
def answers(unet, *inputs):
    """Ours and theirs."""
    return FusedUNet(unet)(*inputs)[0], unet(*inputs, return_dict=False)[0]


@pytest.mark.parametrize("name", CASES)
def test_the_same_answers(name):
    unet = make(**CASES[name])
    assert obstacle(unet) is None
    ours, theirs = answers(unet, *question())
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert difference(ours, theirs) < 1e-5  # sums of some thousand float32 numbers, in another order: 1e-6 is seen


def test_half_precision_is_as_near_to_the_exact_answer_as_theirs():
    unet = make()
    exact = unet(*question(), return_dict=False)[0]
    ours, theirs = answers(unet.half(), *question(torch.float16))
    assert difference(theirs, exact) < 5e-3  # half precision itself: 1.5e-3 is seen
    assert difference(ours, exact) < 1.3 * difference(theirs, exact)


def test_weights_are_shared_so_what_is_merged_into_them_counts():
    unet = make()
    ours = FusedUNet(unet)
    with torch.no_grad():
        before = ours(*question())[0]
        for name, parameter in unet.named_parameters():
            if "to_q" in name or "conv2" in name:
                parameter += 0.05 * torch.randn_like(parameter)
    after, theirs = answers(unet, *question())
    assert difference(after, theirs) < 1e-5
    assert difference(after, before) > 1e-3
    assert {name.removeprefix("unet.") for name in ours.state_dict()} == set(unet.state_dict())


def test_another_attention_processor_is_asked():
    unet = make()
    unet.set_attn_processor(AttnProcessor())
    assert difference(*answers(unet, *question())) < 1e-5


def test_sizes_that_do_not_halve_go_through_the_module_itself():
    ours, theirs = answers(make(), *question(side=9))
    assert torch.equal(ours, theirs)


def test_a_batch_too_large_to_count_goes_through_in_parts(monkeypatch):
    unet = make()
    whole = FusedUNet(unet)(*question())[0]
    monkeypatch.setattr(fused_unet, "LARGEST", 8 * 32 * 8 * 8 + 1)  # numbers of one input's largest tensor
    seen, usual = [], FusedUNet._embed
    monkeypatch.setattr(FusedUNet, "_embed", lambda self, tick: (seen.append(len(tick)), usual(self, tick))[1])
    torch.testing.assert_close(FusedUNet(unet)(*question())[0], whole, rtol=1e-4, atol=1e-5)
    assert seen == [1, 1]


def test_it_lives_where_its_network_does():
    tick = torch.tensor([1.0], device="meta")
    assert FusedUNet(make().to("meta"))._embed(tick).device.type == "meta"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"down_block_types": ("AttnDownBlock2D", "CrossAttnDownBlock2D")}, "blocks of another kind"),
        ({"class_embed_type": "timestep"}, "wants more"),
        ({"resnet_time_scale_shift": "scale_shift"}, "residual blocks"),
        ({"downsample_padding": 0}, "changes size"),
        ({"act_fn": "gelu"}, "residual blocks"),
        ({"only_cross_attention": True}, "transformer blocks"),
    ],
)
def test_networks_of_other_kinds_are_left_to_diffusers(changes, words):
    unet = make(**changes)
    assert words in obstacle(unet)
    assert prepare(unet, torch.device("cuda")) is unet


def test_where_it_is_used():
    unet = make()
    assert type(prepare(unet, torch.device("cuda"))) is FusedUNet
    assert prepare(unet, torch.device("cuda"), fused=False) is unet
    assert prepare(unet, torch.device("cpu")) is unet
    assert prepare(unet, torch.device("cuda"), compiled=True) is unet
    assert unet._compiled_call_impl is not None
