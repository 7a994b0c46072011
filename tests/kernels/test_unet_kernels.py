"""Normalizations and gate of a UNet against PyTorch's own."""

import pytest
import torch

from sjc_fast.kernels.unet import geglu, group_norm, launch, layer_norm, reference
from sjc_fast.rendering.checks import DEVICE

pytestmark = pytest.mark.usefixtures("poison")
#: What rounding does: sums of some thousand float32 numbers of size 1; one rounding of half precision at size 4.
BOUNDS = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.float16: {"atol": 4e-3, "rtol": 2e-3}}


def numbers(*shape, seed=0, dtype=torch.float32, scale=1.0, offset=0.0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return (x * scale + offset).to(DEVICE, dtype)


def terms_of(names, images, size, width, behind, dtype):
    """The named ones of what may be added to a feature map, or put behind it."""
    made = {
        "residual": lambda: numbers(images, *size, width, seed=1, dtype=dtype),
        "bias": lambda: numbers(width, seed=2, dtype=dtype),
        "shift": lambda: numbers(images, width, seed=3, dtype=dtype),
        "skip": lambda: numbers(images, *size, behind, seed=4, dtype=dtype),
    }
    return {name: made[name]() for name in names}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "names", [(), ("residual", "bias"), ("bias", "shift"), ("bias", "skip"), ("residual", "bias", "skip")], ids=str
)
@pytest.mark.parametrize("block", [launch.GROUP_BLOCK, 128], ids=["one block", "many"])
def test_group_norm(monkeypatch, names, dtype, block):
    monkeypatch.setattr(launch, "GROUP_BLOCK", block)
    images, size, width, behind, groups = 2, (6, 10), 20, 10, 5  # with a skip, a group lies on both sides
    channels = width + (behind if "skip" in names else 0)
    x = numbers(images, *size, width, dtype=dtype, offset=3.0)
    terms = terms_of(names, images, size, width, behind, dtype)
    norm = (numbers(channels, seed=5, dtype=dtype), numbers(channels, seed=6, dtype=dtype), groups, 1e-5)
    wide = [t if t is None or not t.is_floating_point() else t.float() for t in norm[:2]]
    expected, total = reference.group_norm(
        x.float(), *wide, *norm[2:], **{name: term.float() for name, term in terms.items()}, silu=True
    )
    out, kept = group_norm(x, *norm, **terms, silu=True, keep=True)
    torch.testing.assert_close(out.float(), expected, **BOUNDS[dtype])
    torch.testing.assert_close(kept.float(), total, **BOUNDS[dtype])
    if "skip" not in names:
        assert kept is x


def test_group_norm_leaves_its_input_where_the_sum_is_not_wanted():
    x, bias, ones = numbers(1, 4, 4, 8), numbers(8, seed=1), torch.ones(8, device=DEVICE)
    before = x.clone()
    out, same = group_norm(x, ones, bias, 2, 1e-6, bias=bias)
    assert same is x
    assert torch.equal(x, before)
    torch.testing.assert_close(out, reference.group_norm(before, ones, bias, 2, 1e-6, bias=bias)[0], **BOUNDS[x.dtype])


@pytest.mark.parametrize("block", [launch.GROUP_BLOCK, 128], ids=["one block", "many"])
def test_group_norm_far_from_zero(monkeypatch, block):
    """A mean of a thousand deviations: squares less the square of the mean would have no digit left."""
    monkeypatch.setattr(launch, "GROUP_BLOCK", block)
    x = numbers(1, 8, 9, 8, offset=1000.0)
    weight, offset = torch.ones(8, device=DEVICE), torch.zeros(8, device=DEVICE)
    exact = reference.group_norm(x.double(), weight.double(), offset.double(), 2, 1e-5)[0].float()
    out, _ = group_norm(x, weight, offset, 2, 1e-5)
    torch.testing.assert_close(out, exact, atol=5e-4, rtol=0)  # the mean itself is known to 6e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [20, 64])
@pytest.mark.parametrize("together", [1, 256], ids=["a row a program", "many"])
def test_layer_norm(monkeypatch, dtype, channels, together):
    monkeypatch.setattr(launch, "LAYER_BLOCK", together)
    x = numbers(2, 7, channels, dtype=dtype, offset=2.0)
    weight, offset, ahead = (numbers(channels, seed=s, dtype=dtype) for s in (1, 2, 3))
    expected, moved = reference.layer_norm(x.float(), weight.float(), offset.float(), 1e-5, ahead.float())
    before = x.clone()
    torch.testing.assert_close(layer_norm(x, weight, offset, 1e-5).float(), expected, **BOUNDS[dtype])
    assert torch.equal(x, before)
    torch.testing.assert_close(layer_norm(x, weight, offset, 1e-5, ahead=ahead).float(), expected, **BOUNDS[dtype])
    torch.testing.assert_close(x.float(), moved, **BOUNDS[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_geglu(dtype):
    x = numbers(3, 5, 2 * 24, dtype=dtype, scale=3.0)
    torch.testing.assert_close(geglu(x).float(), reference.geglu(x.float()), **BOUNDS[dtype])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: group_norm(x, x[0, 0, 0], x[0, 0, 0], 3, 1e-5), "groups"),
        (lambda x: group_norm(x, x[0, 0, 0], x[0, 0, 0], 2, 1e-5, bias=x[0, 0, 0, 1:]), "needed"),
        (lambda x: group_norm(x.half(), x[0, 0, 0], x[0, 0, 0], 2, 1e-5), "one type"),
        (lambda x: layer_norm(x.transpose(1, 2), x[0, 0, 0], x[0, 0, 0], 1e-5), "contiguous"),
        (lambda x: geglu(x[..., 1:].contiguous()), "no halves"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(numbers(1, 3, 5, 8))
