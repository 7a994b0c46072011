"""`perturb` and `combine` against their plain versions, and the noise they make against noise.py."""

import itertools

import pytest
import torch
import triton
import triton.language as tl
from sjc_fast.kernels import paas as module
from sjc_fast.kernels.noise import normal, philox
from sjc_fast.kernels.paas import PREDICTIONS, combine, perturb
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from sjc_fast.paas import combine as plain_combine
from sjc_fast.paas import draw_noise, noise_shape, weigh
from sjc_fast.rendering.checks import DEVICE

pytestmark = pytest.mark.usefixtures("poison")
SEED, STEP = 0x9ABCDEF012345678, 41  # above 2^63, so that its sign as int64 matters


def scalar(value):
    return torch.tensor(value - 2**64 if value >= 2**63 else value, device=DEVICE)


def views(channels=4, size=(6, 10), count=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, channels, *size, generator=generator).to(DEVICE)
    return x, torch.tensor([0.3, 7.0, 0.02][:count], device=DEVICE)


def plain_noise(x, samples, antithetic):
    shape = noise_shape(x, samples, antithetic)
    return draw_noise(x, samples, antithetic, normal(SEED, STEP, torch.Size(shape).numel(), DEVICE).reshape(shape))


@triton.jit
def words_kernel(out, seed, step, COUNT: tl.constexpr):
    block = tl.arange(0, COUNT).to(tl.uint32)
    words = tl.philox(tl.load(seed), block, block * 0, block * 0 + tl.load(step).to(tl.uint32), block * 0)
    for k in tl.static_range(4):
        tl.store(out + tl.arange(0, COUNT) * 4 + k, words[k].to(tl.int64))


def test_the_same_integers_as_plain_torch():
    out = torch.empty(64, 4, dtype=torch.int64, device=DEVICE)
    words_kernel[(1,)](out, scalar(SEED), scalar(STEP), COUNT=64)
    block = torch.arange(64)
    counter = torch.stack([block, block * 0, block * 0 + STEP, block * 0], dim=1)
    assert torch.equal(out.cpu() & 0xFFFFFFFF, philox(counter, (SEED & 0xFFFFFFFF, SEED >> 32)))


def test_the_same_normals_to_a_millionth():
    x, sigma = torch.zeros(1, 3, 50, 70, device=DEVICE), torch.ones(1, device=DEVICE)
    options = {"noise_samples": 1, "dtype": torch.float32, "channels_last": False}
    mine = perturb(x, sigma, scalar(SEED), scalar(STEP), **options) * 2**0.5
    torch.testing.assert_close(mine.reshape(-1), normal(SEED, STEP, 3 * 50 * 70, DEVICE), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "antithetic", "doubled", "patch", "last", "dtype"),
    [
        (1, False, True, 1, True, torch.float16),
        (3, False, False, 1, False, torch.float32),
        (4, True, True, 2, True, torch.float32),
        (2, True, False, 2, False, torch.float16),
    ],
)
def test_perturb(samples, antithetic, doubled, patch, last, dtype):
    x, sigma = views()
    options = {"antithetic": antithetic, "doubled": doubled, "patch": patch, "dtype": dtype, "channels_last": last}
    mine = perturb(x, sigma, scalar(SEED), scalar(STEP), noise_samples=samples, **options)
    noise, s = plain_noise(x, samples, antithetic), sigma[:, None, None, None, None]
    truth = ((x[:, None] + s * noise) / (1 + s**2).sqrt()).flatten(0, 1)
    truth = pixel_unshuffle(torch.cat([truth, truth]) if doubled else truth, patch)
    assert mine.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    tolerance = 2e-6 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(mine.float(), truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("samples", "antithetic", "guidance", "coefficient", "weighting", "patch"),
    [
        (1, False, None, 0.0, "sigma", 1),
        (4, True, 7.5, 1.0, "sigma2", 2),
        (3, False, 100.0, 0.4, "one", 1),
        (3, False, 7.5, "auto", "sigma", 2),
        (1, False, None, "auto", "sigma2", 1),
        (2, True, None, "auto", "sigma", 1),
    ],
)
def test_combine(prediction, samples, antithetic, guidance, coefficient, weighting, patch):
    x, sigma = views()
    noise, s = plain_noise(x, samples, antithetic), sigma[:, None, None, None, None]
    generator = torch.Generator().manual_seed(5)
    batch = (2 if guidance else 1) * noise.shape[0] * samples
    said = torch.randn(batch, *x.shape[1:], generator=generator).to(DEVICE)
    power = {"sigma": 1, "sigma2": 2, "one": 0}[weighting]
    options = {"noise_samples": samples, "antithetic": antithetic, "prediction": prediction, "patch": patch}
    for order in (torch.contiguous_format, torch.channels_last):
        answer = pixel_unshuffle(said, patch).contiguous(memory_format=order)
        g = torch.tensor(guidance or 0.0, device=DEVICE)
        mine = combine(x, sigma, answer, scalar(SEED), scalar(STEP), g, coefficient=coefficient, power=power, **options)
        whole = pixel_shuffle(answer, patch).double()
        if guidance:
            cond, uncond = whole.chunk(2)
            whole = uncond + guidance * (cond - uncond)
        whole, noisy = whole.reshape(noise.shape), x[:, None] + s * noise
        denoised = {
            "epsilon": lambda w=whole, n=noisy: n - s * w,
            "v_prediction": lambda w=whole, n=noisy: n / (1 + s**2) - s / (1 + s**2).sqrt() * w,
            "sample": lambda w=whole: w,
        }[prediction]()
        truth = weigh(plain_combine(x, sigma, denoised, noise, coefficient, antithetic), sigma, weighting)
        error = (mine - truth).abs() / (1 + truth.abs())
        assert float(error.max()) < (2e-5 if weighting != "one" else 2e-3)  # 1 / sigma^2 is up to 11 here


def test_strong_guidance_of_extreme_half_precision_answers_stays_finite():
    x, sigma = views()
    answer = torch.full((4, 4, 6, 10), 60000.0, dtype=torch.float16, device=DEVICE)
    answer[2:] *= -1
    g = torch.tensor(100.0, device=DEVICE)
    update = combine(x, sigma, answer, scalar(SEED), scalar(STEP), g, noise_samples=1)
    assert bool(update.isfinite().all())
    assert float(update.abs().max()) > 1e7


def test_another_step_or_seed_is_other_noise():
    x, sigma = views()
    draws = [
        perturb(x, sigma, scalar(seed), scalar(step), noise_samples=1)
        for seed, step in ((SEED, STEP), (SEED, STEP + 1), (SEED ^ 1, STEP), (SEED ^ 2**63, STEP))
    ]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


def test_bad_arguments():
    x, sigma = views()
    rest = (scalar(SEED), scalar(STEP))
    g = torch.tensor(1.0, device=DEVICE)
    with pytest.raises(ValueError, match="3 noise samples"):
        perturb(x, sigma, *rest, noise_samples=3, antithetic=True)
    with pytest.raises(ValueError, match="patches of 4"):
        perturb(x, sigma, *rest, noise_samples=1, patch=4)
    with pytest.raises(ValueError, match=r"sigma \[V\]"):
        perturb(x, sigma[:1], *rest, noise_samples=1)
    with pytest.raises(ValueError, match="a batch of 2"):
        combine(x, sigma, x[:1], *rest, g, noise_samples=1)
    with pytest.raises(ValueError, match="prediction is one of"):
        combine(x, sigma, x, *rest, g, noise_samples=1, prediction="noise")


def test_opcheck():
    x, sigma = views()
    rest = (scalar(SEED), scalar(STEP))
    torch.library.opcheck(module._perturb, (x, sigma, *rest, 2, True, True, 2, torch.float16, True))
    answer = perturb(x, sigma, *rest, noise_samples=2, doubled=True)
    guidance = torch.tensor(7.5, device=DEVICE)
    torch.library.opcheck(module._combine, (x, sigma, answer, *rest, guidance, None, 2, False, 1, 0.0, 1, 1))
    torch.library.opcheck(module._regress, (x, sigma, answer, *rest, guidance, 2, 1, 1))
