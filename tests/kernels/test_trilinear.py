"""`trilinear_sample` against `grid_sample` in float64: values, and gradients to grid and points."""

import pytest
import torch

from sjc_fast.kernels import trilinear
from sjc_fast.kernels.trilinear import reference, trilinear_sample
from sjc_fast.rendering.checks import DEVICE

pytestmark = pytest.mark.usefixtures("poison")


def inputs(channels, count=700, shape=(5, 6, 7)):
    generator = torch.Generator().manual_seed(channels)
    grid = torch.randn(*shape, channels, generator=generator).to(DEVICE)
    points = torch.rand(count, 3, generator=generator).to(DEVICE) * 2.8 - 1.4  # a third of them outside
    points[:3] = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [50.0, 0.0, 0.0]])
    return grid.requires_grad_(), points.requires_grad_()


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_values_and_gradients(channels):
    grid, points = inputs(channels)
    twins = [x.detach().double().requires_grad_() for x in (grid, points)]
    upstream = torch.randn(700, channels, generator=torch.Generator().manual_seed(9)).to(DEVICE)
    mine, exact = trilinear_sample(grid, points), reference.trilinear_sample(*twins)
    torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad((mine * upstream).sum(), (grid, points))
    exact = torch.autograd.grad((exact * upstream).sum(), twins)
    # At a voxel's center the slope jumps, so a point that rounds across it may differ: few do.
    torch.testing.assert_close(gradients[0].double(), exact[0], rtol=1e-5, atol=1e-5)
    wrong = ((gradients[1] - exact[1]).abs() > 1e-4 * (1 + exact[1].abs())).any(dim=1)
    assert int(wrong.sum()) <= 3


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_the_gradients_that_are_wanted(wanted):
    grid, points = (x.detach().requires_grad_(w) for x, w in zip(inputs(4), wanted, strict=True))
    trilinear_sample(grid, points).sum().backward()
    assert (grid.grad is not None, points.grad is not None) == wanted


def test_half_precision_grid():
    grid, points = (x.detach() for x in inputs(4))
    half = trilinear_sample(grid.half(), points)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, trilinear_sample(grid.half().float(), points))


def test_no_points_and_bad_arguments():
    grid, points = inputs(4)
    assert trilinear_sample(grid, points[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match=r"points \[P, 3\]"):
        trilinear_sample(grid, points[:, :2])
    with pytest.raises(ValueError, match="contiguous"):
        trilinear_sample(grid.transpose(0, 1), points)
    with pytest.raises(ValueError, match="must be float32"):
        trilinear_sample(grid, points.double())


@pytest.mark.exact_arithmetic
def test_opcheck_and_one_graph():
    grid, points = inputs(4, count=40)
    torch.library.opcheck(trilinear._sample, (grid, points))
    torch.library.opcheck(
        trilinear._gradients, (grid.detach(), points.detach(), torch.ones(40, 4).to(DEVICE), True, True)
    )
    compiled = torch.compile(trilinear_sample, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(grid, points), trilinear_sample(grid, points))
