"""PAAS against closed forms (Gaussian data), against the exact mixture, and its bookkeeping."""

import math

import pytest
import torch

from sjc_fast import MixtureModel, paas_score
from sjc_fast.paas import average_scores, denoise_copies, draw_noise, weigh

MEAN, SHAPE = 0.3, (1, 3, 8, 8)


def gaussian(std):
    """Data N(0.3, std^2 I): a mixture of one."""
    return MixtureModel(torch.full(SHAPE, MEAN), std=std)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def many_estimates(std, sigma, *, copies=2, trials=400, **options):
    """[trials, C, H, W] independent PAAS estimates at one x."""
    x = torch.linspace(-1, 1, 192).reshape(SHAPE)
    views = x.expand(trials, -1, -1, -1)
    return x, paas_score(
        gaussian(std), views, sigma, "", noise_samples=copies, guidance=1.0, generator=generator(), **options
    )


@pytest.mark.parametrize(("std", "sigma"), [(0.5, 0.2), (0.5, 0.5), (0.5, 2.0)])
@pytest.mark.parametrize("coefficient", [1.0, 0.0, 0.37])
def test_mean_is_closed_form_whatever_c(std, sigma, coefficient):
    x, estimates = many_estimates(std, sigma, coefficient=coefficient)
    truth = -(x - MEAN) / (std**2 + sigma**2)
    spread = estimates.std(dim=0) / math.sqrt(len(estimates))
    z = (estimates.mean(dim=0) - truth[0]) / spread.clamp_min(1e-6)
    assert float(z.abs().max()) < 5
    assert abs(float(z.mean())) < 0.3


@pytest.mark.parametrize("sigma", [0.2, 2.0])
def test_variances_are_what_the_formulas_say(sigma):
    std, copies = 0.5, 2
    total = std**2 + sigma**2
    expected = {1.0: sigma**2 / total**2, 0.0: std**4 / (sigma**2 * total**2)}
    for coefficient, variance in expected.items():
        _, estimates = many_estimates(std, sigma, copies=copies, coefficient=coefficient)
        measured = float(estimates.var(dim=0).mean())
        assert measured == pytest.approx(variance / copies, rel=0.03)
    # Eq. 16 wins only where sigma > s.
    assert (expected[0.0] < expected[1.0]) == (sigma > std)


def test_no_variance_with_antithetic_pairs_or_the_best_c():
    std, sigma = 0.5, 0.8
    for options in ({"antithetic": True}, {"coefficient": std**2 / (std**2 + sigma**2)}):
        x, estimates = many_estimates(std, sigma, **options)
        truth = -(x - MEAN) / (std**2 + sigma**2)
        torch.testing.assert_close(estimates, truth.expand_as(estimates), atol=2e-5, rtol=0)


def test_auto_finds_the_best_c_and_keeps_the_mean():
    std, sigma = 0.5, 0.8
    x, auto = many_estimates(std, sigma, copies=4, coefficient="auto")
    _, eq16 = many_estimates(std, sigma, copies=4, coefficient=0.0)
    _, eq15 = many_estimates(std, sigma, copies=4, coefficient=1.0)
    best = min(float(eq15.var(dim=0).mean()), float(eq16.var(dim=0).mean()))
    assert float(auto.var(dim=0).mean()) < 0.1 * best
    truth = -(x - MEAN) / (std**2 + sigma**2)
    torch.testing.assert_close(auto.mean(dim=0), truth[0], atol=0.02, rtol=0)


def test_auto_is_unbiased_where_few_pixels_would_show_it():
    """Eight-pixel images that are not Gaussian: c fitted on the very noise it multiplies would bias the mean."""
    model = MixtureModel(torch.randn(3, 1, 2, 4, generator=generator(1)))
    x, sigma, trials = torch.full((1, 1, 2, 4), 0.4), 0.9, 40_000
    score = lambda c, seed: paas_score(  # noqa: E731
        model,
        x.expand(trials, -1, -1, -1),
        sigma,
        "",
        noise_samples=2,
        guidance=1.0,
        coefficient=c,
        generator=generator(seed),
    )
    auto, eq16 = score("auto", 2), score(0.0, 3)
    error = (auto.mean(dim=0) - eq16.mean(dim=0)).abs()
    standard = ((auto.var(dim=0) + eq16.var(dim=0)) / trials).sqrt()
    assert float((error / standard).max()) < 4.5


def images():
    return torch.randn(5, 3, 8, 8, generator=generator(1)) * 0.5


def test_monte_carlo_rate_against_the_mixture():
    """The error of an N-sample average falls as 1 / sqrt(N)."""
    model, x, sigma = MixtureModel(images(), std=0.3), torch.zeros(SHAPE), 0.7
    score = lambda n, seed: paas_score(  # noqa: E731
        model, x, sigma, "", noise_samples=n, guidance=1.0, generator=generator(seed)
    )
    truth = score(40_000, 99)
    seeds = 100  # the ratio of two such sums has a relative deviation of 2 / sqrt(seeds x dimensions), a few per cent
    errors = {n: sum(float((score(n, s) - truth).square().mean()) for s in range(seeds)) / seeds for n in (4, 64)}
    assert errors[4] / errors[64] == pytest.approx(16, rel=0.35)


def test_noised_density_identity_and_jensen():
    """E_n[p_sigma(x + sigma n)] = p_{sqrt(2) sigma}(x), and E_n[log p_sigma] lies below its logarithm."""
    model = MixtureModel(torch.randn(4, 1, 2, 2, generator=generator(2)))
    x, sigma = torch.full((1, 1, 2, 2), 0.2), 0.9
    count = 200_000
    noisy = x + sigma * torch.randn(count, 1, 2, 2, generator=generator(3))
    condition = model.encode([""])
    log_p = model.log_density(noisy, torch.full((count,), sigma), condition.expand(count, -1)).double()
    exact = float(model.log_density(x, torch.tensor([math.sqrt(2) * sigma]), condition).exp())
    p = log_p.exp()
    assert abs(float(p.mean()) - exact) < 5 * float(p.std()) / math.sqrt(count)
    assert float(log_p.mean()) < math.log(exact) - 0.1


def test_paas_is_the_gradient_of_the_jensen_bound():
    """Eq. 15 is exactly the automatic derivative of E_n[log p_sigma(x + sigma n)] with the same noise."""
    model, sigma = MixtureModel(images(), std=0.2), 0.6
    x = torch.zeros(SHAPE, requires_grad=True)
    noise = torch.randn(1, 16, *SHAPE[1:], generator=generator(4))
    condition = model.encode([""]).expand(16, -1)
    model.log_density((x + sigma * noise[0]), torch.full((16,), sigma), condition).mean().backward()
    score = paas_score(model, x, sigma, "", noise_samples=16, guidance=1.0, coefficient=1.0, noise=noise)
    torch.testing.assert_close(score, x.grad, atol=1e-4, rtol=1e-4)


class Recorder:
    """Notes how the network is called."""

    def __init__(self, inner):
        self.inner, self.calls = inner, []
        self.encode = inner.encode

    def denoise(self, x, sigma, condition):
        self.calls.append((tuple(x.shape), sigma.clone(), condition.clone()))
        return self.inner.denoise(x, sigma, condition)


def test_one_call_and_its_batch():
    model = Recorder(MixtureModel(images()))
    x = torch.zeros(2, 3, 8, 8, requires_grad=True)
    score = paas_score(model, x, torch.tensor([0.5, 2.0]), ["a", "b"], noise_samples=4, guidance=7.0)
    assert [c[0] for c in model.calls] == [(16, 3, 8, 8)]
    assert model.calls[0][1].tolist() == ([0.5] * 4 + [2.0] * 4) * 2
    assert score.shape == (2, 3, 8, 8)
    assert not score.requires_grad
    model.calls.clear()
    paas_score(model, x, 0.5, ["a", "b"], noise_samples=4, guidance=1.0)
    assert [c[0] for c in model.calls] == [(8, 3, 8, 8)]


def test_guidance_formula():
    model = MixtureModel(images(), select=lambda p: torch.arange(5) == int(p))
    x, sigma = torch.randn(2, 3, 8, 8, generator=generator(5)), torch.tensor([0.5, 2.0])
    noise = torch.randn(2, 3, 3, 8, 8, generator=generator(6))
    condition, empty = model.encode(["1", "3"]), model.encode([""])
    guided = denoise_copies(model, x, sigma, condition, empty, 30.0, noise)
    cond = denoise_copies(model, x, sigma, condition, None, 1.0, noise)
    uncond = denoise_copies(model, x, sigma, empty.expand(2, -1), None, 1.0, noise)
    torch.testing.assert_close(guided, uncond + 30.0 * (cond - uncond))


def test_views_are_independent():
    model = MixtureModel(images(), select=lambda p: torch.arange(5) <= int(p))
    x, noise = torch.randn(2, 3, 8, 8, generator=generator(7)), torch.randn(2, 4, 3, 8, 8, generator=generator(8))
    options = {"noise_samples": 4, "guidance": 5.0, "coefficient": "auto"}
    both = paas_score(model, x, torch.tensor([0.5, 2.0]), ["1", "3"], noise=noise, **options)
    second = paas_score(model, x[1:], 2.0, "3", noise=noise[1:], **options)
    torch.testing.assert_close(both[1:], second)


def test_sds_is_a_special_case():
    """N = 1, Eq. 16 and weight "sigma" give n - eps_hat."""
    model, sigma = MixtureModel(images()), torch.tensor([0.8])
    x, noise = torch.zeros(SHAPE), torch.randn(1, 1, 3, 8, 8, generator=generator(9))
    score = paas_score(model, x, sigma, "", noise_samples=1, guidance=1.0, noise=noise)
    noisy = x + sigma * noise[0]
    eps = (noisy - model.denoise(noisy, sigma, model.encode([""]))) / sigma
    torch.testing.assert_close(weigh(score, sigma, "sigma"), noise[0] - eps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weigh(score, sigma, "sigma2"), score * 0.64)
    torch.testing.assert_close(weigh(score, sigma, "one"), score)
    # DreamFusion's gradient is w(t) (eps_hat - eps), w(t) the variance of the noise where that of the whole is 1.
    variance = 0.8**2 / (1 + 0.8**2)
    sds = weigh(score, sigma, "sds")
    torch.testing.assert_close(sds, variance * (noise[0] - eps), atol=1e-5, rtol=1e-5)


def test_antithetic_noise_and_any_c():
    noise = draw_noise(torch.zeros(SHAPE), 4, antithetic=True, generator=generator())
    assert torch.equal(noise[:, :2], -noise[:, 2:])
    denoised = torch.randn_like(noise)
    x, sigma = torch.zeros(SHAPE), torch.tensor([0.5])
    a, b = (average_scores(x, sigma, denoised, noise, c, antithetic=True) for c in (0.0, 1.0))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_wrong_arguments():
    model, x = MixtureModel(images()), torch.zeros(SHAPE)
    with pytest.raises(ValueError, match="in pairs"):
        paas_score(model, x, 1.0, "", noise_samples=3, antithetic=True)
    with pytest.raises(ValueError, match="at least one noise sample"):
        paas_score(model, x, 1.0, "", noise_samples=0)
    with pytest.raises(ValueError, match="sigma must be positive"):
        paas_score(model, x, 0.0, "")
    with pytest.raises(ValueError, match="noise must be"):
        paas_score(model, x, 1.0, "", noise_samples=2, noise=torch.zeros(1, 1, 3, 8, 8))
    with pytest.raises(ValueError, match="one for each of the 1 views"):
        paas_score(model, x, 1.0, ["a", "b"])
