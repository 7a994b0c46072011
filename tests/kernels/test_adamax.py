"""The fused optimizer steps against `torch.optim`."""

import functools

import pytest
import torch

from sjc_fast.kernels import adamax as module
from sjc_fast.kernels.adamax import Move, adam_step, adam_steps, adamax_step, adamax_steps
from sjc_fast.kernels.adamax.layout import gradient_rows
from sjc_fast.kernels.bricks import brick_maximum
from sjc_fast.rendering.checks import DEVICE

KINDS = {"adamax": (torch.optim.Adamax, "exp_inf"), "adam": (torch.optim.Adam, "exp_avg_sq")}


@pytest.fixture(params=["triton", "cpu"])
def step(request):
    """The step by name, in Triton's code (interpreted where there is no GPU) or the compiled one."""
    if request.param == "cpu" and DEVICE.type != "cpu":
        pytest.skip("the compiled code takes CPU tensors")
    return {
        "adamax": functools.partial(adamax_step, backend=request.param),
        "adam": functools.partial(adam_step, backend=request.param),
    }


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("shape", [(11, 5, 3), (7, 9), ()], ids=str)
@pytest.mark.parametrize("kind", list(KINDS))
def test_many_steps(step, kind, shape):
    """Parameters and both moments, with a rate that changes, gradients of all sizes, and some that are zero."""
    optimizer, second = KINDS[kind]
    param, twin = randn(*shape), randn(*shape).requires_grad_()
    theirs = optimizer([twin], lr=0.05)
    first, moment = torch.zeros_like(param), torch.zeros_like(param)
    for k in range(1, 13):
        lr, gradient = 0.05 / k, randn(*shape, seed=k) * 10.0 ** (k % 5 - 3)
        gradient = torch.where(randn(*shape, seed=100 + k) < -1, 0, gradient)
        twin.grad, theirs.param_groups[0]["lr"] = gradient.clone(), lr
        theirs.step()
        step[kind](param, gradient, first, moment, torch.tensor(lr, device=DEVICE), torch.tensor(k, device=DEVICE))
        assert not bool(gradient.any())
    # Twelve steps, each rounded a few times: a moment errs by 12 x 2 x 2^-24 = 1.4e-6 of its size (the mean of the
    # gradient cancels, so of the gradients' size), a parameter by as much of its own. 1 - beta2 in float32 is off by
    # 1.3e-5, and shows.
    torch.testing.assert_close(param, twin.detach(), rtol=5e-6, atol=5e-6)
    torch.testing.assert_close(first, theirs.state[twin]["exp_avg"], rtol=5e-6, atol=5e-6)
    torch.testing.assert_close(moment, theirs.state[twin][second], rtol=5e-6, atol=1e-12)


def parts(seed=0):
    """Parameters, and gradients as views of padded and permuted buffers, as the march leaves them."""
    params = [randn(5, 6, 7, seed=seed), randn(5, 6, 7, 3, seed=seed + 1), randn(seed=seed + 2), randn(3, 4, 4)]
    padded, texture = torch.zeros(5, 6, 7, 4, device=DEVICE), torch.zeros(4, 4, 4, device=DEVICE)
    grads = [torch.zeros(5, 6, 7, device=DEVICE), padded[..., :3], torch.zeros((), device=DEVICE)]
    return params, [*grads, texture.permute(2, 0, 1)[:3]]


@pytest.mark.parametrize("backend", ["triton", "cpu"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_several_parameters_in_one_launch_are_several_steps(kind, backend):
    """To the last bit; and every number is in the sums."""
    if backend == "cpu" and DEVICE.type != "cpu":
        pytest.skip("the compiled code takes CPU tensors")
    one, several = {"adam": (adam_step, adam_steps), "adamax": (adamax_step, adamax_steps)}[kind]
    params, grads = parts()
    twins = [p.clone() for p in params]
    moments = [[torch.zeros_like(p) for p in params] for _ in range(4)]
    rates = [torch.tensor(lr, dtype=torch.float64, device=DEVICE) for lr in (0.1, 0.1, 0.1, 0.01)]
    for k in range(1, 4):
        step = torch.tensor(k, device=DEVICE)
        for i, grad in enumerate(grads):
            grad.copy_(randn(*grad.shape, seed=10 * k + i))
            one(twins[i], grad.clone(memory_format=torch.contiguous_format), moments[2][i], moments[3][i],
                rates[i], step, backend=backend)  # fmt: skip
        moves = [Move(*tensors) for tensors in zip(params, grads, moments[0], moments[1], rates, strict=True)]
        sums = several(moves, step, backend=backend)
        assert not any(bool(grad.any()) for grad in grads)
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(param, twin)
    expected = torch.stack([p.double().sum() for p in params]).sum().float()
    torch.testing.assert_close(sums.sum(), expected, rtol=1e-4, atol=1e-4)
    params[1][4, 5, 6, 2] = float("nan")
    assert not bool(several(moves, step, backend=backend).sum().isfinite())


@pytest.mark.parametrize("backend", ["triton", "cpu"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_several_objects_in_one_launch_are_steps_of_each(kind, backend):
    """Each with its own rate and number of the step, to the last bit, and with sums of its own."""
    if backend == "cpu" and DEVICE.type != "cpu":
        pytest.skip("the compiled code takes CPU tensors")
    several = {"adam": adam_steps, "adamax": adamax_steps}[kind]
    each = [parts(seed) for seed in (0, 40, 80)]
    params = [torch.stack(p) for p in zip(*(params for params, _ in each), strict=True)]
    grads = [torch.zeros_like(p) for p in params[:3]]
    grads.append(torch.zeros(3, 4, 4, 4, device=DEVICE).movedim(-1, -3)[:, :3])
    moments = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    twins = [[torch.zeros_like(p) for p in own] for own, _ in each for _ in range(2)]
    numbers = torch.tensor([[1, 0], [7, 0], [30, 0]], device=DEVICE)[:, 0]
    rates = [torch.tensor([[0.1, 0], [0.02, 0], [0.3, 0]], dtype=torch.float64, device=DEVICE)[:, 0]] * 4  # with gaps
    for k in range(2):
        for i, grad in enumerate(grads):
            grad.copy_(randn(*grad.shape, seed=10 * k + i))
        alone = []
        for s, (own, _) in enumerate(each):
            own_grads = [grad[s].clone() for grad in grads]
            given = (own, own_grads, twins[2 * s], twins[2 * s + 1], [rate[s] for rate in rates])
            alone.append(several([Move(*t) for t in zip(*given, strict=True)], numbers[s] + k, backend=backend))
        moves = [Move(*tensors) for tensors in zip(params, grads, *moments, rates, strict=True)]
        sums = several(moves, numbers + k, backend=backend)
        assert not any(bool(grad.any()) for grad in grads)
    assert torch.equal(sums, torch.stack(alone))
    for i, param in enumerate(params):
        assert torch.equal(param, torch.stack([own[i] for own, _ in each]))
    params[1][1, 4, 5, 6, 2] = float("nan")
    finite = several(moves, numbers, backend=backend).sum(1).isfinite()
    assert finite.tolist() == [True, False, True]
    with pytest.raises(ValueError, match="one for each"):
        several(moves, numbers[0], backend=backend)


def test_strides_of_a_gradient():
    whole = torch.zeros(5, 6, 7, 4)
    assert gradient_rows(whole) == (1, 1, 0)
    assert gradient_rows(whole[..., :3]) == (3, 4, 1)
    assert gradient_rows(torch.zeros(4, 4, 4).permute(2, 0, 1)[:3]) == (16, 1, 4)
    assert gradient_rows(torch.zeros(())) == (1, 1, 0)
    with pytest.raises(ValueError, match="more than two axes"):
        gradient_rows(whole[:, ::2, :, :3])
    with pytest.raises(ValueError, match="nothing to move"):
        adamax_steps([], torch.tensor(1))
    like = torch.zeros(2)
    with pytest.raises(ValueError, match="a gradient must be"):
        adamax_steps([Move(like, like.double(), like, like, torch.tensor(0.1))], torch.tensor(1))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_padded_gradient_and_half_precision_copy(step, kind):
    param, gradient = randn(5, 6, 3), torch.full((5, 6, 4), 1.0, device=DEVICE)
    expected, plain = param.clone(), torch.ones(5, 6, 3, device=DEVICE)
    copy = torch.full((5, 6, 4), 7.0, dtype=kind, device=DEVICE)
    lr, k = torch.tensor(0.1, device=DEVICE), torch.tensor(1, device=DEVICE)
    step["adamax"](param, gradient, torch.zeros_like(param), torch.zeros_like(param), lr, k, copy=copy)
    step["adamax"](expected, plain, torch.zeros_like(param), torch.zeros_like(param), lr, k)
    assert torch.equal(param, expected)
    apart = copy[..., :3].contiguous().view(torch.int16).int() - param.to(kind).view(torch.int16)
    assert int(apart.abs().max()) <= 1  # units in the last place: the interpreter cuts where the device rounds
    assert bool((copy[..., 3] == 7).all())
    assert not bool(gradient[..., :3].any())


def test_a_gradient_of_nothing_moves_nothing(step):
    param = randn(40)
    before, zeros = param.clone(), [torch.zeros_like(param) for _ in range(3)]
    step["adamax"](param, *zeros, torch.tensor(0.5, device=DEVICE), torch.tensor(1, device=DEVICE))
    assert torch.equal(param, before)


def test_a_gradient_that_is_not_finite_is_cleared_too(step):
    param, gradient = randn(4), torch.tensor([1.0, float("inf"), float("nan"), 0.0], device=DEVICE)
    moments = [torch.zeros_like(param) for _ in range(2)]
    step["adamax"](param, gradient, *moments, torch.tensor(0.1, device=DEVICE), torch.tensor(1, device=DEVICE))
    assert not bool(gradient.any())
    assert param.isfinite().tolist() == [True, False, False, True]


@pytest.mark.parametrize("kind", list(KINDS))
def test_brick_maxima_are_those_of_the_new_values(step, kind):
    """Bit for bit what `brick_maximum` finds afterwards, whatever the maxima were before; lowering included."""
    param = randn(17, 18, 23) - 6  # below the padding's 0
    bricks = torch.full((3, 3, 3), 50.0, device=DEVICE)
    moments = [torch.zeros_like(param) for _ in range(2)]
    lr, k = torch.tensor(0.5, device=DEVICE), torch.tensor(1, device=DEVICE)
    step[kind](param, randn(17, 18, 23, seed=1), *moments, lr, k, bricks=bricks)
    assert torch.equal(bricks, brick_maximum(param, backend="triton"))
    assert bool((bricks < 0).any())


def test_bad_arguments():
    param, lr, k = randn(4, 3), torch.tensor(0.1), torch.tensor(1)
    like = [torch.zeros_like(param) for _ in range(3)]
    with pytest.raises(ValueError, match="contiguous"):
        adamax_step(param.T, *like, lr, k)
    with pytest.raises(ValueError, match="moments must have the parameter's shape"):
        adamax_step(param, like[0], like[1][:2], like[2], lr, k)
    with pytest.raises(ValueError, match="padding of its last axis"):
        adamax_step(param, like[0][:, :2].contiguous(), *like[1:], lr, k)
    with pytest.raises(ValueError, match="must be float32"):
        adam_step(param, like[0].double(), *like[1:], lr, k)
    with pytest.raises(ValueError, match="what brick_maximum returns"):
        adam_step(param, *like, lr, k, bricks=torch.zeros(1, 1, device=DEVICE))


@pytest.mark.exact_arithmetic  # what --perturb puts in between does not know operators that change several tensors
def test_opcheck(step):
    backend = step["adamax"].keywords["backend"]
    param, lr, k = randn(4, 3), torch.tensor(0.1, device=DEVICE), torch.tensor(1, device=DEVICE)
    tensors = [param, *[torch.zeros_like(param) for _ in range(3)], param.half()]
    torch.library.opcheck(module._update, (*tensors, None, lr, k, 0.9, 0.999, 1e-8, False, backend))
    lists = [[t] for t in (param, torch.zeros_like(param), *(torch.zeros_like(param) for _ in range(2)))]
    torch.library.opcheck(module._update_parts, (*lists, [lr], k, 0.9, 0.999, 1e-8, False, backend))
