"""`perturb` and the PAAS update against their plain versions, and the noise they make against noise.py."""

import itertools

import pytest
import torch
import triton
import triton.language as tl
from torch.nn.functional import pixel_unshuffle

from sjc_fast.kernels import paas as module
from sjc_fast.kernels.noise import normal, philox
from sjc_fast.kernels.paas import fused_paas_update, perturb, reference
from sjc_fast.paas import WEIGHTS, average_scores, draw_noise, noise_shape, weigh
from sjc_fast.rendering.checks import DEVICE
from sjc_fast.scores.preconditioning import FAMILIES, Preconditioning

pytestmark = pytest.mark.usefixtures("poison")
SEED, STEP = 0x9ABCDEF012345678, 41  # above 2^63, so that its sign as int64 matters


def scalar(value):
    return torch.tensor(value - 2**64 if value >= 2**63 else value, device=DEVICE)


def views(channels=4, size=(6, 10), count=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, channels, *size, generator=generator).to(DEVICE)
    return x, torch.tensor([0.3, 7.0, 0.02][:count], device=DEVICE)


def numbers_of(sigma, family=("beta", "epsilon")):
    """Coefficients of a family at noise levels."""
    return Preconditioning(*family, torch.logspace(-2, 2, 1000)).coefficients(sigma)


def scale_of(sigma, weighting="sigma"):
    return (WEIGHTS[weighting](sigma.double()) / sigma.double() ** 2).float()


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
    mine = perturb(x, sigma, sigma, scalar(SEED), scalar(STEP), **options)
    # Of a logarithm, a root, a sine or cosine and two products, each right to 2 units in the last place of 5.
    torch.testing.assert_close(mine.reshape(-1), normal(SEED, STEP, 3 * 50 * 70, DEVICE), rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize(
    ("channels", "samples", "antithetic", "doubled", "patch", "last", "dtype"),
    [
        (4, 1, False, True, 1, True, torch.float16),
        (5, 3, False, False, 1, False, torch.float32),
        (4, 4, True, True, 2, True, torch.float32),
        (32, 2, True, False, 2, False, torch.float16),
    ],
)
def test_perturb(channels, samples, antithetic, doubled, patch, last, dtype):
    x, sigma = views(channels)
    numbers = numbers_of(sigma)
    options = {"antithetic": antithetic, "doubled": doubled, "patch": patch, "dtype": dtype, "channels_last": last}
    mine = perturb(x, sigma, numbers.c_in, scalar(SEED), scalar(STEP), noise_samples=samples, **options)
    truth = reference.perturb(x, sigma, numbers.c_in, plain_noise(x, samples, antithetic), doubled, patch)
    assert mine.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3  # a few units in the last place of numbers up to 4
    torch.testing.assert_close(mine.float(), truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", FAMILIES, ids="-".join)
@pytest.mark.parametrize(
    ("channels", "samples", "antithetic", "guidance", "coefficient", "weighting", "patch"),
    [
        (4, 1, False, None, 0.0, "sigma", 1),
        (4, 4, True, 7.5, 1.0, "sigma2", 2),
        (16, 3, False, 100.0, 0.4, "one", 1),
        (4, 3, False, 7.5, "auto", "sigma", 2),
        (32, 1, False, None, "auto", "sds", 1),
        (5, 2, True, None, "auto", "sigma", 1),
    ],
)
def test_the_update(family, channels, samples, antithetic, guidance, coefficient, weighting, patch):
    """Against the plain score from D in float64; the error scales with what goes in: guided answers times c_out."""
    x, sigma = views(channels)
    noise, numbers = plain_noise(x, samples, antithetic), numbers_of(sigma, family)
    generator = torch.Generator().manual_seed(5)
    batch = (2 if guidance else 1) * noise.shape[0] * samples
    said = torch.randn(batch, *x.shape[1:], generator=generator).to(DEVICE)
    options = {"noise_samples": samples, "antithetic": antithetic, "coefficient": coefficient, "patch": patch}
    for order in (torch.contiguous_format, torch.channels_last):
        answer = pixel_unshuffle(said, patch).contiguous(memory_format=order)
        g = torch.tensor(guidance or 0.0, device=DEVICE)
        given = (x, sigma, numbers, scale_of(sigma, weighting), answer, scalar(SEED), scalar(STEP), g)
        mine = fused_paas_update(*given, **options)
        exact = [t.double() for t in (x, sigma, answer, noise)]
        doubled = type(numbers)(*(n.double() for n in numbers_of(sigma.double(), family)))
        change = reference.difference(*exact[:2], doubled, *exact[2:], guidance, patch)
        denoised = change + exact[0][:, None]
        score = average_scores(*exact[:2], denoised, exact[3], coefficient, antithetic)
        truth = weigh(score, exact[1], weighting)
        size = scale_of(sigma, weighting).double() * (1 + sigma) * (4 + 2 * (guidance or 1))
        error = (mine - truth).abs() / (size[:, None, None, None] + truth.abs())
        assert float(error.max()) < 2e-6  # sixteen units in the last place


def test_strong_guidance_of_extreme_half_precision_answers_stays_finite():
    x, sigma = views()
    answer = torch.full((4, 4, 6, 10), 60000.0, dtype=torch.float16, device=DEVICE)
    answer[2:] *= -1
    g = torch.tensor(100.0, device=DEVICE)
    given = (x, sigma, numbers_of(sigma), scale_of(sigma), answer, scalar(SEED), scalar(STEP), g)
    update = fused_paas_update(*given, noise_samples=1)
    assert bool(update.isfinite().all())
    assert float(update.abs().max()) > 1e7


@pytest.mark.parametrize(
    ("samples", "antithetic", "coefficient"), [(3, False, "auto"), (2, True, 0.0), (1, False, 1.0)]
)
def test_objects_that_step_together_have_what_each_has_alone(samples, antithetic, coefficient):
    """Six views of three objects: each object's noise by its own seed and step, each view's guidance, to the bit."""
    x, _ = views(count=6)
    sigma, guidance = (c.to(DEVICE) for c in (torch.logspace(-1, 1, 6), torch.arange(6.0)))
    seeds, steps = torch.tensor([[5, 0], [SEED - 2**64, 41], [7, 9]], device=DEVICE).T  # with gaps
    options = {"noise_samples": samples, "antithetic": antithetic}
    batch = perturb(x, sigma, numbers_of(sigma).c_in, seeds, steps, doubled=True, dtype=torch.float32, **options)
    said = torch.randn(batch.shape, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    given = (x, sigma, numbers_of(sigma), scale_of(sigma), said, seeds, steps, guidance)
    update = fused_paas_update(*given, coefficient=coefficient, **options)
    for s in range(3):
        own = slice(2 * s, 2 * s + 2)
        noise = (seeds[s], steps[s])
        one = perturb(
            x[own], sigma[own], numbers_of(sigma[own]).c_in, *noise, doubled=True, dtype=torch.float32, **options
        )
        assert torch.equal(batch.unflatten(0, (2, 3, -1))[:, s].flatten(0, 1), one)
        answer = said.unflatten(0, (2, 3, -1))[:, s].flatten(0, 1)
        given = (x[own], sigma[own], numbers_of(sigma[own]), scale_of(sigma[own]), answer, *noise, guidance[own])
        assert torch.equal(update[own], fused_paas_update(*given, coefficient=coefficient, **options))
    with pytest.raises(ValueError, match="share the views evenly"):
        perturb(x, sigma, sigma, seeds[:2].repeat(2), steps[:2].repeat(2), noise_samples=1)


@pytest.mark.parametrize("antithetic", [False, True])
def test_a_share_of_views_and_draws_is_what_all_of_them_have(antithetic):
    """Noise and updates of one view's second half of draws, and of the views after the first."""
    x, _ = views(count=3)
    sigma, noise = torch.tensor([0.3, 7.0, 0.02], device=DEVICE), (scalar(SEED), scalar(STEP))
    numbers, options = numbers_of(sigma), {"antithetic": antithetic, "dtype": torch.float32, "channels_last": False}
    whole = perturb(x, sigma, numbers.c_in, *noise, noise_samples=4, **options).unflatten(0, (3, 4))
    draws = 2 if antithetic else 4
    for first, count in ((0, draws // 2), (draws // 2, draws // 2)):
        some, drawing = [first + i for i in range(count)], {"share": (0, first, draws)}
        copies = [*some, *(draws + i for i in some)] if antithetic else some
        mine = perturb(x, sigma, numbers.c_in, *noise, noise_samples=2, **options, **drawing)
        assert torch.equal(mine.unflatten(0, (3, 2)), whole[:, copies])
    said = torch.randn(12, *x.shape[1:], generator=torch.Generator().manual_seed(1)).to(DEVICE)
    rest = [x, sigma, numbers, scale_of(sigma), said, *noise, torch.ones((), device=DEVICE)]
    update = fused_paas_update(*rest, noise_samples=4, antithetic=antithetic, coefficient="auto")
    later = [t[1:] for t in (x, sigma)]
    rest[:5] = [*later, numbers_of(later[1]), scale_of(later[1]), said[4:]]
    assert torch.equal(
        perturb(*later, rest[2].c_in, *noise, noise_samples=4, **options, share=(1, 0, 0)), whole[1:].flatten(0, 1)
    )
    mine = fused_paas_update(*rest, noise_samples=4, antithetic=antithetic, coefficient="auto", share=(1, 0, 0))
    assert torch.equal(mine, update[1:])


def test_another_step_or_seed_is_other_noise():
    x, sigma = views()
    draws = [
        perturb(x, sigma, numbers_of(sigma).c_in, scalar(seed), scalar(step), noise_samples=1)
        for seed, step in ((SEED, STEP), (SEED, STEP + 1), (SEED ^ 1, STEP), (SEED ^ 2**63, STEP))
    ]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


def test_bad_arguments():
    x, sigma = views()
    numbers, rest = numbers_of(sigma), (scalar(SEED), scalar(STEP))
    g = torch.tensor(1.0, device=DEVICE)
    with pytest.raises(ValueError, match="3 noise samples"):
        perturb(x, sigma, numbers.c_in, *rest, noise_samples=3, antithetic=True)
    with pytest.raises(ValueError, match="patches of 4"):
        perturb(x, sigma, numbers.c_in, *rest, noise_samples=1, patch=4)
    with pytest.raises(ValueError, match="one number a view"):
        perturb(x, sigma[:1], numbers.c_in, *rest, noise_samples=1)
    with pytest.raises(ValueError, match="a batch of 2"):
        fused_paas_update(x, sigma, numbers, sigma, x[:1], *rest, g, noise_samples=1)


def test_opcheck():
    x, sigma = views()
    numbers, rest = numbers_of(sigma), (scalar(SEED), scalar(STEP))
    torch.library.opcheck(
        module._perturb, (x, sigma, numbers.c_in, *rest, 2, True, True, 2, torch.float16, True, [0, 0, 0])
    )
    answer = perturb(x, sigma, numbers.c_in, *rest, noise_samples=2, doubled=True)
    guidance = torch.full((2,), 7.5, device=DEVICE)
    given = (x, sigma, numbers.c_skip, numbers.c_skip_less_one, numbers.c_out)
    torch.library.opcheck(module._update, (*given, sigma, answer, *rest, guidance, None, 2, False, 0.0, 1, [0, 0, 0]))
    torch.library.opcheck(module._regress, (*given, answer, *rest, guidance, 2, 1, [0, 0, 0]))
