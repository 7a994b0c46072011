"""Families of models as numbers: D of every family is right where the network is right."""

import pytest
import torch

from sjc_fast.scores.preconditioning import FAMILIES, Preconditioning

TABLE = torch.logspace(-2, 2, 1000)


def perfect_answer(prediction, x, n, sigma):
    """What a network that knows x and n answers, by the definition of what it predicts."""
    alpha, spread = (1 + sigma**2).rsqrt(), sigma * (1 + sigma**2).rsqrt()
    return {"epsilon": n, "v_prediction": alpha * n - spread * x, "sample": x, "velocity": n - x}[prediction]


@pytest.mark.parametrize("family", FAMILIES, ids="-".join)
def test_d_of_a_perfect_network_is_the_clean_image(family):
    generator = torch.Generator().manual_seed(0)
    x, n = torch.randn(2, 5, 64, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([1e-3, 0.1, 1.0, 10.0, 80.0], dtype=torch.float64)
    numbers = Preconditioning(*family, TABLE).coefficients(sigma)
    answer = perfect_answer(family[1], x, n, sigma[:, None])
    denoised = numbers.c_skip[:, None] * (x + sigma[:, None] * n) + numbers.c_out[:, None] * answer
    # Coefficients are float32: each is right to 6e-8, and multiplies numbers of size sigma.
    allowed = 3 * 6e-8 * (1 + sigma[:, None]) * (x.abs() + n.abs())
    assert bool(((denoised - x).abs() <= allowed).all())


@pytest.mark.parametrize("family", FAMILIES, ids="-".join)
def test_the_networks_input_has_the_size_that_it_was_trained_on(family):
    """beta: variance 1 for data of variance 1; flow: the interpolation (1 - t) x + t n itself."""
    sigma = torch.tensor([0.05, 1.0, 30.0], dtype=torch.float64)
    model = Preconditioning(*family, TABLE)
    c_in = model.coefficients(sigma).c_in.double()
    if family[0] == "beta":
        torch.testing.assert_close(c_in**2 * (1 + sigma**2), torch.ones(3).double(), rtol=5e-7, atol=0)
    else:
        t = model.time(sigma)
        torch.testing.assert_close(torch.stack([c_in, c_in * sigma]), torch.stack([1 - t, t]), rtol=5e-7, atol=0)


@pytest.mark.parametrize("family", FAMILIES, ids="-".join)
def test_c_skip_less_one_keeps_its_digits(family):
    """At small sigma c_skip is nearly 1 (where it is not 0), and what is left of 1 is not what rounding left."""
    sigma = torch.tensor([1e-3], dtype=torch.float64)
    numbers = Preconditioning(*family, TABLE).coefficients(sigma)
    exact = {"epsilon": 0.0, "v_prediction": -1e-6 / (1 + 1e-6), "sample": -1.0, "velocity": -1e-3 / 1.001}[family[1]]
    assert float(numbers.c_skip_less_one) == pytest.approx(exact, rel=1e-6)


def test_what_networks_are_told():
    ticks = Preconditioning("beta", "epsilon", TABLE)
    assert ticks.c_noise(TABLE[[0, 17, 999]]).tolist() == [0, 17, 999]
    assert ticks.c_noise(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]
    between = Preconditioning("beta", "epsilon", TABLE, timestep="interpolated")
    assert float(between.c_noise((TABLE[10] * TABLE[11]).sqrt()[None])) == pytest.approx(10.5, abs=0.01)
    flow = Preconditioning("flow", "velocity", TABLE)
    assert flow.c_noise(torch.tensor([1.0, 3.0])).tolist() == [500.0, 750.0]


def test_no_such_family():
    with pytest.raises(ValueError, match="no family of the law 'flow' predicts 'epsilon'"):
        Preconditioning("flow", "epsilon", TABLE)
