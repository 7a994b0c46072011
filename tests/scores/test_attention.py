"""Which attention a network runs on: by name, and what is switched off because it errs."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend

from sjc_fast import UserError
from sjc_fast.scores import attention
from sjc_fast.scores.attention import Heads, choose_attention, faulty_backends, heads_of, trust_cudnn, xformers_problem
from sjc_fast.scores.load import load_score_model
from tests.support import pipelines

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FLASH = {"flash": SDPBackend.FLASH_ATTENTION}
KINDS = [Heads(40, False), Heads(40, True), Heads(80, False)]


@pytest.fixture(scope="module")
def unet():
    return pipelines.unet()


def test_a_network_without_attention_says_so():
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
    unet = UNet2DConditionModel(**blocks, mid_block_type="UNetMidBlock2D", cross_attention_dim=8)
    assert [choose_attention(unet, name, CPU, torch.float32).name for name in ("sdpa", "xformers")] == ["none", "none"]


def test_the_kinds_of_attention_in_a_network():
    with torch.device("meta"):
        stable_diffusion = pipelines.unet("1.5")
    assert heads_of(stable_diffusion) == [Heads(w, crossed) for w in (40, 80, 160) for crossed in (False, True)]


def test_a_kernel_that_agrees_is_kept():
    """PyTorch's flash attention for CPUs, really run."""
    assert faulty_backends(KINDS, CPU, torch.float32, FLASH) == {}
    assert faulty_backends(KINDS, CPU, torch.bfloat16, FLASH) == {}


def spoiled(change):
    """Attention that is right only where the mathematical one is asked for."""

    def attend(query, key, value):
        real = torch.nn.functional.scaled_dot_product_attention
        if torch.backends.cuda.math_sdp_enabled() or query.shape[-1] != 80:
            return real(query, key, value)
        return change(real(query, key, value))

    return attend


def raising(message):
    def change(_):
        raise RuntimeError(message)

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x: x * 1.01, "it is off by 1.0e-02 for heads of 80 numbers"),
        (lambda x: x.masked_fill(x > 0.3, float("nan")), "it is off by nan for heads of 80 numbers"),
        (raising("an illegal memory access"), "it fails (an illegal memory access) for heads of 80 numbers"),
        (raising("No available kernel. Aborting execution."), None),
    ],
)
def test_a_kernel_that_errs_is_found(monkeypatch, change, problem):
    monkeypatch.setattr(attention, "scaled_dot_product_attention", spoiled(change))
    assert faulty_backends(KINDS, CPU, torch.float32, FLASH) == ({"flash": problem} if problem else {})


def test_cudnn_is_not_trusted_with_wide_heads(monkeypatch):
    """Whatever it would answer: from the version on that PyTorch warns of, nothing is launched."""
    assert trust_cudnn(91100, 128)
    assert trust_cudnn(91002, 160)
    assert not trust_cudnn(91100, 160)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91200)
    found = faulty_backends([Heads(160, True)], CPU, torch.float32, {"cudnn": SDPBackend.CUDNN_ATTENTION})
    assert found == {"cudnn": "cuDNN 91200 is known to be unsafe for heads of 160 numbers"}


@pytest.mark.parametrize(
    ("name", "wrong", "shown", "first"),
    [
        ("sdpa", {}, "sdpa", None),
        ("sdpa", {"cudnn": "x"}, "sdpa without cudnn", SDPBackend.FLASH_ATTENTION),
        ("efficient", {}, "efficient", SDPBackend.EFFICIENT_ATTENTION),
        ("efficient", {"cudnn": "x"}, "efficient", SDPBackend.EFFICIENT_ATTENTION),
        ("cudnn", {"cudnn": "it is off"}, "sdpa without cudnn", SDPBackend.FLASH_ATTENTION),
        ("sdpa", dict.fromkeys(attention.BACKENDS, "x"), "sdpa without cudnn, flash, efficient", SDPBackend.MATH),
    ],
)
def test_what_errs_is_not_used_and_said(monkeypatch, caplog, unet, name, wrong, shown, first):
    monkeypatch.setattr(attention, "faulty_backends", lambda *_: wrong)
    choice = choose_attention(unet, name, CUDA, torch.float16)
    assert choice.name == shown
    assert choice.backends[:1] == ((first,) if first else ())
    assert not choice.backends or choice.backends[-1] == SDPBackend.MATH
    assert not {attention.BACKENDS[kind] for kind in wrong} & set(choice.backends)
    assert len(caplog.messages) == len(wrong)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with choice.active():
        assert torch.backends.cuda.cudnn_sdp_enabled() == ("cudnn" not in wrong)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sdpa", *attention.BACKENDS])
def test_a_network_answers_the_same_on_each_kernel(unet, name):
    model = pipelines.StandIn(unet, CUDA, torch.float32)
    x, sigma, text = torch.randn(2, 4, 16, 16, device="cuda"), torch.ones(2, device="cuda"), model.encode(["a", "b"])
    truth = model.denoise(x, sigma, text)
    model.attention = choose_attention(unet, name, CUDA, torch.float32)
    torch.testing.assert_close(model.denoise(x, sigma, text), truth, rtol=1e-2, atol=1e-2)


def test_xformers_where_it_is_not_installed(tmp_path):
    folder = pipelines.stable_diffusion(tmp_path / "model")
    assert "not installed" in xformers_problem()
    with pytest.raises(UserError, match=r"attention xformers: it is not installed: pip install 'sjc-fast\[xformers\]'"):
        load_score_model(str(folder), device="cpu", attention="xformers")
    with pytest.raises(UserError, match="attention flash: it needs a CUDA device; choose sdpa"):
        load_score_model(str(folder), device="cpu", attention="flash")
