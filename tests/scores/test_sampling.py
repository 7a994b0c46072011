"""Pictures from a score model alone, against closed forms."""

import itertools
import math

import imageio.v3 as iio
import pytest
import torch

from sjc_fast import MixtureModel, UserError
from sjc_fast.cli import main
from sjc_fast.experiments.sample import ddim
from sjc_fast.scores.sampling import Sampler, guided, sample, sample_steps
from tests.support import pipelines


def gaussian(mean=0.3, std=0.5):
    """The denoiser of one Gaussian around a constant picture."""
    return MixtureModel(torch.full((1, 1, 2, 2), mean), std=std)


def exact(start, sigma_start, mean=0.3, std=0.5):
    """Where the probability-flow ODE takes x: z-scores are kept."""
    x = sigma_start * start
    return mean + (x - mean) * std / math.sqrt(std**2 + sigma_start**2)


@pytest.mark.parametrize(("heun", "order"), [(False, 1), (True, 2)])
def test_the_ode_is_solved_to_the_order_of_the_method(heun, order):
    start = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (32, 64):
        sampler = Sampler(steps, heun=heun, low=0.002, high=20.0)
        x = sample(gaussian(), [""] * 4, sampler, start=start)
        errors.append(float((x - exact(start, 20.0)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.5)
    assert errors[1] < (0.2 if order == 1 else 0.02)


def test_the_schedule_is_karras():
    levels = Sampler(5, rho=7.0, low=0.1, high=10.0).levels(torch.tensor([0.01, 99.0]))
    assert levels[0] == pytest.approx(10.0)
    assert levels[-2] == pytest.approx(0.1)
    assert levels[-1] == 0
    root = levels[:-1] ** (1 / 7)
    torch.testing.assert_close(root.diff(), root.diff()[:1].expand(4), atol=1e-5, rtol=0)
    assert Sampler(1).levels(torch.tensor([0.5, 3.0])).tolist() == pytest.approx([3.0, 0.0])
    with pytest.raises(UserError, match="sampling needs at least one step"):
        Sampler(0).levels(torch.tensor([0.5, 3.0]))


def test_churn_keeps_the_distribution_and_is_seeded():
    model = gaussian(mean=-0.2, std=0.7)
    run = lambda seed, churn=20.0: sample(  # noqa: E731
        model, [""] * 4000, Sampler(100, churn=churn, high=20.0), generator=torch.Generator().manual_seed(seed)
    )
    x = run(0)
    assert x.mean() == pytest.approx(-0.2, abs=0.03)
    assert x.std() == pytest.approx(0.7, abs=0.03)
    assert torch.equal(x, run(0))
    assert not torch.equal(x, run(1))
    assert not torch.equal(x, run(0, churn=0.0))


def test_guidance_and_words():
    images = torch.tensor([-0.8, 0.6]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    model = MixtureModel(images, select=lambda prompt: torch.tensor([prompt == "low", prompt == "high"]))
    x = sample(model, ["low", "high"], Sampler(24), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x, images, atol=1e-2, rtol=0)
    middle = torch.zeros(2, 1, 2, 2)
    words, empty = model.encode(["low", "high"]), model.encode([""])
    conditional = guided(model, middle, 1.0, words, 1.0, empty)
    unconditional = model.denoise(middle, torch.ones(2), empty.expand_as(words))
    stronger = guided(model, middle, 1.0, words, 1.5, empty)
    torch.testing.assert_close(stronger, unconditional + 1.5 * (conditional - unconditional))
    assert bool((stronger[0] < conditional[0]).all())


def test_ddim_by_diffusers_ends_where_the_ode_does():
    """The experiment's cross-check, against the closed form."""
    model = gaussian()
    model.sigmas = noise_table()
    start = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    x = ddim(model, [""] * 4, 1000, start)  # of first order: a thousand steps err by a quarter of the tolerance
    largest = float(model.sigmas[-1])
    # DDIM starts from noise of unit variance, which is x / sqrt(1 + sigma^2) here.
    scaled = (1 + largest**2) ** 0.5 / largest * start
    torch.testing.assert_close(x, exact(scaled, largest), atol=0.02, rtol=0)


def noise_table():
    """Stable Diffusion's."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)
    return ((1 - kept) / kept).sqrt().float()


@pytest.mark.parametrize("options", [["--euler"], ["--churn", "10"], ["--rho", "3"]])
def test_options_change_the_picture(options, tmp_path):
    plain, other = tmp_path / "plain.png", tmp_path / "other.png"
    common = ["sample", "--prompt", "a red ball", "--count", "1", "--steps", "4", "--output"]
    main([*common, str(plain)])
    main([*common, str(other), *options])
    assert (iio.imread(plain) != iio.imread(other)).any()


def test_latents_are_decoded(tmp_path):
    folder = pipelines.stable_diffusion(tmp_path / "sd")
    output = tmp_path / "x.png"
    main(["sample", "--model", str(folder), "--prompt", "x", "--count", "2", "--steps", "3", "--output", str(output)])
    assert iio.imread(output).shape == (32, 64, 3)


def test_every_step_is_yielded():
    steps = list(itertools.islice(sample_steps(gaussian(), [""], Sampler(6)), 10))
    assert len(steps) == 6
    assert steps[-1][0] == 0
    assert [s for s, _ in steps] == sorted((s for s, _ in steps), reverse=True)


def test_the_command_shows_what_was_asked_for(tmp_path, capsys):
    output = tmp_path / "new" / "ball.png"
    main(["sample", "--prompt", "front view of a red ball", "--count", "2", "--steps", "8", "--output", str(output)])
    assert capsys.readouterr().out.strip() == str(output)
    picture = iio.imread(output).astype(float)
    assert picture.shape == (64, 128, 3)
    for middle in (picture[24:40, 24:40], picture[24:40, 88:104]):
        red, green, blue = middle.mean(axis=(0, 1))
        assert red > 140
        assert max(green, blue) < 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a dragon"], "knows no object"),
        (["--prompt", "a ball", "--output", "ball.jpg"], "a picture's name ends in .png"),
        (["--prompt", "a ball", "--steps", "0"], "--steps 0: it must be between 1"),
        (["--prompt", "a ball", "--rho", "0"], "--rho 0.0: it must be between 0.1 and 100"),
        (["--prompt", "a ball", "--churn", "nan"], "--churn nan: it must be between 0 and"),
        (["--prompt", "a ball", "--guidance", "inf"], "--guidance inf: it must be between"),
        (["--prompt", "a ball", "--precision", "half"], "half"),
        (["--prompt", "a ball", "--model", "nowhere"], "no model 'nowhere'"),
    ],
)
def test_wrong_input(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sample", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
