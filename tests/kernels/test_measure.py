"""What a step reports, against PyTorch's own sums."""

import pytest
import torch

from sjc_fast.kernels import measure as module
from sjc_fast.kernels.measure import measure, reference
from sjc_fast.rendering.checks import DEVICE

pytestmark = pytest.mark.usefixtures("poison")


def tensors(views):
    generator = torch.Generator().manual_seed(views)
    shapes = [(views,), (views, 11, 9), (views,), (views, 4, 11, 9), (5003,)]
    return [torch.rand(*shape, generator=generator).to(DEVICE) for shape in shapes]


@pytest.mark.parametrize("views", [1, 13])
def test_measure(views):
    given = tensors(views)
    # Sums of up to 5,600 numbers of one sign, in another order.
    torch.testing.assert_close(measure(*given, backend="triton"), reference.measure(*given), rtol=1e-5, atol=0)
    given[4][5002] = float("inf")
    assert not bool(measure(*given, backend="triton")[4].isfinite())


def test_objects_are_measured_each_alone():
    *views, sums = tensors(6)
    sums = sums[:4998].reshape(3, -1)
    together = measure(*views, sums, backend="triton")
    for i, own in enumerate(zip(*(x.chunk(3) for x in views), sums, strict=True)):
        assert torch.equal(together[i], measure(*own, backend="triton"))
    torch.testing.assert_close(together, reference.measure(*views, sums), rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", ["triton", "cpu"])
def test_opcheck(backend):
    torch.library.opcheck(module._measure, (*tensors(2), backend))
    *views, sums = tensors(4)
    torch.library.opcheck(module._measure, (*views, sums[:5000].reshape(2, -1), backend))
