"""Score models: real diffusers folders through the production loader, the exact mixture, and vocabularies."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from sjc_fast import MixtureModel, ScoreModel, UserError, load_score_model
from sjc_fast.scores.vocabulary import Vocabulary
from tests.support import pipelines

PROMPTS = ["a red cube", "a blue ball"]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction", "sample"])
def folder(request, tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("sd") / request.param, request.param)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_denoise_against_an_independent_calculation_and_ddim(folder):
    model = load_score_model(str(folder), device="cpu")
    assert isinstance(model, ScoreModel)
    assert (model.channels, model.size, model.latent, model.upscale) == (4, 16, True, 2)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    scheduler = pipelines.ddim(folder)
    scheduler.set_timesteps(1000)
    condition = model.encode(PROMPTS)
    for tick in (3, 250, 700, 990):
        alpha = scheduler.alphas_cumprod[tick]
        sigma = ((1 - alpha) / alpha).sqrt()
        x = torch.randn(2, 4, 16, 16, generator=generator()) * (1 + sigma)
        mine = model.denoise(x, sigma.expand(2), condition)
        with torch.no_grad():
            scaled = x * alpha.sqrt()  # variance preserving
            out = unet(scaled, tick, condition).sample
            kind = scheduler.config.prediction_type
            truth = {
                "epsilon": (scaled - (1 - alpha).sqrt() * out) / alpha.sqrt(),
                "v_prediction": alpha.sqrt() * scaled - (1 - alpha).sqrt() * out,
                "sample": out,
            }[kind]
            step = scheduler.step(out, tick, scaled).pred_original_sample
        tolerance = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(mine, truth, **tolerance)
        torch.testing.assert_close(mine, step, **tolerance)
        assert mine.dtype == torch.float32
        assert not mine.requires_grad


def test_text_embeddings_are_the_text_encoders(folder):
    model = load_score_model(str(folder), device="cpu")
    words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    tokens = words(PROMPTS, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(model.encode(PROMPTS), encoder(tokens).last_hidden_state)
    assert not torch.equal(*model.encode(PROMPTS))


def test_decode_is_the_vaes(folder):
    model = load_score_model(str(folder), device="cpu")
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    latents = torch.randn(2, 4, 16, 16, generator=generator())
    with torch.no_grad():
        truth = (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(model.decode(latents), truth, atol=1e-5, rtol=1e-5)
    assert truth.shape == (2, 3, 32, 32)


def test_encoding_images_is_the_vaes(folder):
    model = load_score_model(str(folder), device="cpu")
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    pictures = torch.rand(2, 3, 32, 32, generator=generator())
    with torch.no_grad():
        truth = vae.encode(pictures * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(model.encode_image(pictures), truth, atol=1e-5, rtol=1e-5)
    assert truth.shape == (2, 4, 16, 16)


def test_noise_levels_and_ticks(folder):
    model = load_score_model(str(folder), device="cpu")
    alphas = pipelines.ddim(folder).alphas_cumprod
    torch.testing.assert_close(model.sigmas, ((1 - alphas) / alphas).sqrt(), rtol=1e-5, atol=0)
    ticks = torch.tensor([0, 1, 17, 500, 998, 999])
    assert torch.equal(model.preconditioning.c_noise(model.sigmas[ticks]), ticks)
    assert torch.equal(model.preconditioning.c_noise(torch.tensor([1e-9, 1e9])), torch.tensor([0, 999]))
    assert torch.equal(
        model.preconditioning.c_noise(model.sigmas[10:12].log().mean().exp()[None] * 1.0001), torch.tensor([11])
    )
    between = replace(model.preconditioning, timestep="interpolated").c_noise(
        model.sigmas[10:12].log().mean().exp()[None]
    )
    torch.testing.assert_close(between, torch.tensor([10.5]), atol=1e-2, rtol=0)


def test_pixel_model_without_vae_and_with_a_patch(tmp_path):
    folder = pipelines.stable_diffusion(tmp_path / "pixels", vae=False)
    model = load_score_model(str(folder), device="cpu")
    assert (model.channels, model.size, model.latent, model.upscale) == (3, 16, False, 1)
    x = torch.linspace(-1.5, 1.5, 768).reshape(1, 3, 16, 16)
    torch.testing.assert_close(model.decode(x), (x / 2 + 0.5).clamp(0, 1))
    torch.testing.assert_close(model.encode_image(model.decode(x)), x.clamp(-1, 1))

    unet = UNet2DConditionModel.from_config({**model.network.config, "in_channels": 12, "out_channels": 12})
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet")
    settings = {"pixel_patch": 2, "defaults": {"steps": 7}}
    (folder / "sjc_fast.json").write_text(json.dumps(settings))
    model = load_score_model(str(folder), device="cpu")
    assert (model.channels, model.size, model.settings) == (3, 32, {"steps": 7})
    x, sigma = torch.randn(2, 3, 32, 32, generator=generator()), torch.tensor([0.5, 5.0])
    condition = model.encode(PROMPTS)
    s = sigma[:, None, None, None]
    blocks = (x / (1 + s**2).sqrt()).reshape(2, 3, 16, 2, 16, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 16, 16)
    with torch.no_grad():
        eps = unet.eval()(blocks, model.preconditioning.c_noise(sigma), condition).sample
    eps = eps.reshape(2, 3, 2, 2, 16, 16).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 32, 32)
    # Two memory layouts of one network in float32 agree to some 1e-6 in eps, and sigma multiplies that by up to 5.
    torch.testing.assert_close(model.denoise(x, sigma, condition), x - s * eps, atol=5e-5, rtol=1e-4)


def test_unusable_folders(tmp_path):
    good = pipelines.stable_diffusion(tmp_path / "good")
    with pytest.raises(UserError, match="no model 'nowhere'"):
        load_score_model("nowhere")
    part = shutil.copytree(good, tmp_path / "part")
    shutil.rmtree(part / "unet")
    with pytest.raises(UserError, match="lacks unet"):
        load_score_model(str(part))
    cut = shutil.copytree(good, tmp_path / "cut")
    weights = cut / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load unet") as caught:
        load_score_model(str(cut))
    assert "\n" not in str(caught.value)
    odd = shutil.copytree(good, tmp_path / "odd")
    config = json.loads((odd / "scheduler" / "scheduler_config.json").read_text())
    (odd / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"prediction_type": "flow"}))
    with pytest.raises(UserError, match="'flow' is not supported"):
        load_score_model(str(odd))
    (good / "sjc_fast.json").write_text("{")
    with pytest.raises(UserError, match=r"sjc_fast\.json is not valid"):
        load_score_model(str(good))


def test_mixture_is_exact():
    """D and score against automatic differentiation of the log density, in every regime of sigma."""
    model = MixtureModel(torch.randn(6, 3, 4, 4, generator=generator()), std=0.1)
    condition = model.encode([""]).expand(3, -1)
    sigma = torch.tensor([0.3, 1.0, 10.0])
    x = torch.randn(3, 3, 4, 4, generator=generator(1)).requires_grad_()
    model.log_density(x, sigma, condition).sum().backward()
    score = (model.denoise(x.detach(), sigma, condition) - x.detach()) / sigma[:, None, None, None] ** 2
    torch.testing.assert_close(score, x.grad, atol=2e-4, rtol=2e-4)


def test_mixture_is_stable_and_selects():
    images = torch.stack([torch.full((3, 64, 64), v) for v in (-1.0, 0.0, 1.0)])
    model = MixtureModel(images, select=lambda prompt: torch.tensor([prompt == w for w in ("a", "b", "c")]))
    x = torch.full((2, 3, 64, 64), 0.6)
    for sigma, expected in ((1e-4, 1.0), (1e4, 0.0)):
        answer = model.denoise(x, torch.full((2,), sigma), model.encode(["", ""]))
        torch.testing.assert_close(answer, torch.full_like(x, expected), atol=1e-3, rtol=0)
    chosen = model.denoise(x, torch.ones(2), model.encode(["a", "b"]))
    torch.testing.assert_close(chosen[:, 0, 0, 0], torch.tensor([-1.0, 0.0]))
    with pytest.raises(UserError, match="no image for the prompt 'z'"):
        model.encode(["z"])


def test_vocabulary():
    words = Vocabulary(("cube", "ball"), ("red", "blue"), ("front",))
    assert words.words("A high-quality photo, FRONT view of a red  Cube!") == ["front", "red", "cube"]
    words.check("a red cube")
    words.check("just a ball")
    for prompt, message in (
        ("a red dragon", "knows no object in 'a red dragon'; it knows: cube, ball"),
        ("a red bal", r"did you mean ball\?"),
        ("a cube on a ball", "names cube, ball"),
        ("a red blue cube", "a cube has one color at a time, and 'a red blue cube' names red, blue"),
        ("a red cube, blue", "names red, blue"),
    ):
        with pytest.raises(UserError, match=message):
            words.check(prompt)


def test_vocabulary_of_second_colors():
    words = Vocabulary(("cone", "ball"), ("red", "blue"), ("front",), {"cone": "stripe"})
    told = ["front", "red", "cone", "blue", "stripe"]
    assert words.words("front view of a red cone with a blue stripe") == told
    assert words.words("a blue stripe on a red cone, front") == told
    assert words.words("a red cone with a stripe") == ["red", "cone"]
    assert words.words("a cone with a red stripe") == ["cone", "red", "stripe"]
    assert words.words("a ball with a stripe") == ["ball"]
    assert words.words("") == []
    for prompt in ("a red cone with a blue stripe", "a cone with a blue stripe", "a striped ball", "a ball, no stripe"):
        words.check(prompt)
    for prompt, message in (
        ("a ball with a red stripe", "second color to no part of it, and 'a ball with a red stripe' names its stripe"),
        ("a cone with a red blue stripe", "a stripe has one color at a time, .* names red, blue"),
        ("a red stripe", "knows no object"),
    ):
        with pytest.raises(UserError, match=message):
            words.check(prompt)
    with pytest.raises(ValueError, match="parts must be words"):
        Vocabulary.read({"objects": ["cone"], "parts": ["stripe"]})
