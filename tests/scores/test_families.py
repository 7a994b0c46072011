"""DeepFloyd IF and PixArt-Sigma: tiny pipelines, saved by diffusers, loaded as users load them, against themselves."""

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, IFPipeline, PixArtSigmaPipeline
from transformers import T5EncoderModel

from sjc_fast import UserError, load_score_model
from sjc_fast.runs.settings import PRESETS
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.trainer import Trainer
from tests.support import families
from tests.support.runs import assert_renderers_agree

PROMPTS = ["a red cube", "it"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory):
    return families.deepfloyd(tmp_path_factory.mktemp("models") / "if")


@pytest.fixture(scope="module")
def pixart(tmp_path_factory):
    return families.pixart_sigma(tmp_path_factory.mktemp("models") / "pixart")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def guided(model, x, sigma, scale):
    words, nothing = model.encode(PROMPTS), model.encode([""]).expand(len(PROMPTS), -1, -1)
    cond, uncond = (model.denoise(x, sigma, condition) for condition in (words, nothing))
    return uncond + scale * (cond - uncond)


@torch.no_grad()
def test_deepfloyd_denoises_as_its_pipeline(deepfloyd):
    """D is what the pipeline's own scheduler predicts of the clean picture; the variance is left out."""
    pipe = IFPipeline.from_pretrained(deepfloyd, safety_checker=None, requires_safety_checker=False)
    scheduler, model = DDPMScheduler.from_pretrained(deepfloyd / "scheduler"), load_score_model(str(deepfloyd), CPU)
    assert (model.channels, model.size, model.latent, model.upscale) == (3, 16, False, 1)
    states, avoided = pipe.encode_prompt(PROMPTS, device=CPU)
    for t in (900, 300, 20):
        alpha = scheduler.alphas_cumprod[t]
        sigma = ((1 - alpha) / alpha).sqrt()
        x = torch.rand(2, 3, 16, 16, generator=generator()) * 2 - 1
        z = x + sigma * torch.randn(x.shape, generator=generator(1))
        uncond, cond = pipe.unet(torch.cat([alpha.sqrt() * z] * 2), t, torch.cat([avoided, states])).sample.chunk(2)
        noise = uncond[:, :3] + 5.0 * (cond[:, :3] - uncond[:, :3])
        theirs = scheduler.step(torch.cat([noise, cond[:, 3:]], dim=1), t, alpha.sqrt() * z).pred_original_sample
        ours = guided(model, z, sigma.expand(2), 5.0)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5 * float(1 + sigma))


@torch.no_grad()
def test_d_and_an_euler_step_are_a_step_of_pixart(pixart):
    """Through diffusers' Euler scheduler on the pipeline's own noise table, with the pipeline's own words and masks."""
    pipe, model = PixArtSigmaPipeline.from_pretrained(pixart), load_score_model(str(pixart), CPU)
    assert (model.channels, model.size, model.latent, model.upscale) == (4, 16, True, 2)
    scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")  # whole ticks
    scheduler.set_timesteps(12)
    states, mask, avoided, avoided_mask = pipe.encode_prompt(PROMPTS, device=CPU)
    words = {"encoder_hidden_states": torch.cat([avoided, states])}
    words["encoder_attention_mask"] = torch.cat([avoided_mask, mask])
    words["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    latents = torch.randn(2, 4, 16, 16, generator=generator()) * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps[:3]):
        sigma, lower = scheduler.sigmas[i], scheduler.sigmas[i + 1]
        scaled = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        answer = pipe.transformer(scaled, timestep=t.expand(4), **words).sample.chunk(2, dim=1)[0]
        uncond, cond = answer.chunk(2)
        theirs = scheduler.step(uncond + 4.5 * (cond - uncond), t, latents).prev_sample
        denoised = guided(model, latents, sigma.expand(2), 4.5)
        ours = denoised + (latents - denoised) * (lower / sigma)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(sigma))
        latents = theirs


def test_padding_is_masked(pixart):
    """What stands behind a prompt's words changes nothing, and its mask says where that begins."""
    model, x = load_score_model(str(pixart), CPU), torch.randn(1, 4, 16, 16, generator=generator())
    condition = model.encode(["it"])
    changed = condition.clone()
    changed[:, 200:300] = 7.0  # padding
    sigma = torch.tensor([2.0])
    torch.testing.assert_close(model.denoise(x, sigma, changed), model.denoise(x, sigma, condition), rtol=0, atol=1e-6)
    changed[:, 0] = 7.0
    assert float((model.denoise(x, sigma, changed) - model.denoise(x, sigma, condition)).abs().max()) > 1e-3


def test_masks_cannot_be_blended(pixart):
    config = merge(TrainConfig(), {"prompt": "it", "steps": 2, "cameras": {"words": "blended"}})
    with pytest.raises(UserError, match="have masks, which cannot be blended"):
        Trainer(config, load_score_model(str(pixart), CPU))


@pytest.mark.parametrize("name", ["deepfloyd", "pixart"])
def test_t5_is_not_asked_in_float16(name, request):
    model = load_score_model(str(request.getfixturevalue(name)), CPU, torch.float16)
    assert model._text.pipeline.text_encoder.dtype == torch.bfloat16
    assert bool(model.encode(["it " * 50]).isfinite().all())


def test_t5_whose_numbers_overflow_in_float16(tmp_path):
    """As the published ones do: in float16 they are infinite, in the precision that is chosen they are not."""
    folder = families.deepfloyd(tmp_path / "if")
    encoder = T5EncoderModel.from_pretrained(folder / "text_encoder")
    for block in encoder.encoder.block:
        block.layer[-1].DenseReluDense.wo.weight.data *= 3e5
    encoder.save_pretrained(folder / "text_encoder")
    model = load_score_model(str(folder), CPU, torch.float16)
    words = model._text.pipeline.tokenizer("it", return_tensors="pt").input_ids
    with torch.no_grad():
        assert not bool(encoder.half()(words).last_hidden_state.isfinite().all())
    assert bool(model.encode(["it"]).isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepfloyd", "pixart"])
def test_a_run_by_every_renderer(name, request):
    model = load_score_model(str(request.getfixturevalue(name)), CPU)
    assert_renderers_agree(model, merge(merge(TrainConfig(), PRESETS["paper"]), {"size": 16, "guidance": 5.0}))


def test_networks_of_another_shape_are_refused(deepfloyd, pixart):
    for folder, part, words in (
        (deepfloyd, "unet", "3 channels and answers 6, not 3 and 5"),
        (pixart, "transformer", "its 4 channels or twice as many, not 5"),
    ):
        path = folder / part / "config.json"
        kept = path.read_text()
        number = '"out_channels": 6' if part == "unet" else '"out_channels": 8'
        assert number in kept
        try:
            path.write_text(kept.replace(number, '"out_channels": 5'))
            with pytest.raises(UserError, match=words):
                load_score_model(str(folder), CPU)
        finally:
            path.write_text(kept)
