"""`composite` against plain autograd in float64."""

import pytest
import torch

from sjc_fast.kernels import composite as module
from sjc_fast.kernels.composite import composite, reference
from sjc_fast.rendering.checks import DEVICE, relative_rmse

pytestmark = pytest.mark.usefixtures("poison")


def inputs(rays, samples, channels, most):
    generator = torch.Generator().manual_seed(rays)
    return [
        x.to(DEVICE).requires_grad_()
        for x in (
            torch.rand(rays, samples, generator=generator) * most,
            torch.randn(rays, samples, channels, generator=generator),
            torch.randn(rays, channels, generator=generator),
            torch.rand(rays, generator=generator),
        )
    ]


@pytest.mark.parametrize(
    ("rays", "samples", "channels", "most"),
    [(5, 37, 3, 3.0), (300, 20, 4, 30.0), (7, 1, 1, 1.0), (3, 16, 4, 0.0), (4, 33, 2, 1e4)],
)
def test_values_and_gradients(rays, samples, channels, most):
    mine = inputs(rays, samples, channels, most)
    exact = [x.detach().double().requires_grad_() for x in mine]
    out, truth = composite(*mine, step=0.1, beta=7.0), reference.composite(*exact, step=0.1, beta=7.0)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=generator).to(DEVICE) for x in out]
    for a, b in zip(out, truth, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-5)
    gradients, expected = (
        torch.autograd.grad(sum((x * v).sum() for x, v in zip(o, upstream, strict=True)), i)
        for o, i in ((out, mine), (truth, exact))
    )
    for a, b in zip(gradients, expected, strict=True):
        # A sample's gradient is the difference G - P_k of sums over its ray: it errs by the rounding of up to 37 terms
        # of size 1 to 4, and is small where the ray is opaque. With the errors that NVIDIA documents for approximate
        # functions, 1.3e-5.
        assert relative_rmse(a, b, small=0.01) < 5e-5


def test_inputs_that_are_not_contiguous():
    tensors = inputs(6, 5, 4, 3.0)
    twisted = [x.detach().movedim(0, -1).contiguous().movedim(-1, 0) for x in tensors]
    for a, b in zip(composite(*tensors, step=0.1), composite(*twisted, step=0.1), strict=True):
        assert torch.equal(a, b)


def test_hidden_samples_get_exactly_nothing():
    density, features, background, entry = inputs(6, 40, 4, 1.0)
    density = density.detach()
    density[:, 10] = 150.0  # opaque from here on
    density.requires_grad_()
    out = composite(density, features, background, entry, step=0.1)
    (out.features.square().sum() + out.depth.sum() + out.emptiness.sum()).backward()
    assert bool((density.grad[:, 11:] == 0).all())
    assert bool((features.grad[:, 11:] == 0).all())
    assert bool((density.grad[:, :10] != 0).all())


@pytest.mark.parametrize(("thickness", "shows"), [(1e-4 * 0.99, False), (1e-4 * 1.01, True)])
def test_both_sides_of_the_gate(thickness, shows):
    density = torch.full((1, 1), thickness / 0.1, device=DEVICE)
    one = torch.ones(1, device=DEVICE)
    out = composite(density, one.reshape(1, 1, 1), one.reshape(1, 1) * 0, one, step=0.1)
    assert bool(out.features > 0) == shows
    assert float(out.opacity) == pytest.approx(thickness, rel=1e-3)


@pytest.mark.parametrize(("share", "lit"), [(1.0001, 4), (0.9999, 5)])
def test_both_sides_of_the_early_stop(share, lit):
    """T is just below (or above) 1e-6 after four samples, so the fifth gets nothing (or something)."""
    density = torch.full((1, 9), 13.815511 / 4 * share, device=DEVICE, requires_grad=True)
    one = torch.ones(1, device=DEVICE)
    composite(density, one.expand(1, 9, 1), one.reshape(1, 1), one, step=1.0).depth.sum().backward()
    assert int((density.grad != 0).sum()) == lit


def test_bad_arguments_and_no_rays():
    density, features, background, entry = inputs(6, 4, 4, 1.0)
    assert composite(density[:0], features[:0], background[:0], entry[:0], step=0.1).features.shape == (0, 4)
    with pytest.raises(ValueError, match="do not fit"):
        composite(density, features[:, :2], background, entry, step=0.1)
    with pytest.raises(ValueError, match="float32 tensors of at most 4"):
        composite(density.double(), features, background, entry, step=0.1)


@pytest.mark.exact_arithmetic
def test_opcheck_and_one_graph():
    tensors = inputs(3, 5, 4, 3.0)
    torch.library.opcheck(module._composite, (*tensors, 0.1, 10.0))
    with torch.no_grad():
        features, depth, opacity, emptiness, d_emptiness = module._composite(*tensors, 0.1, 10.0)
    ups = [torch.ones_like(x) for x in (features, depth, opacity, emptiness)]
    saved = [x.detach() for x in (*tensors, features, depth, opacity, d_emptiness)]
    torch.library.opcheck(module._gradients, (*saved, *ups, 0.1, 10.0))
    compiled = torch.compile(lambda *x: composite(*x, step=0.1).features, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), composite(*tensors, step=0.1).features)
