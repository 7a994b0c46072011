"""Stable Diffusion XL's kind: a tiny pipeline, saved by diffusers, loaded as users load it, against the pipeline."""

import json

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict

from sjc_fast import UserError, load_score_model
from sjc_fast.rendering.checks import DEVICE
from sjc_fast.runs.settings import PRESETS
from sjc_fast.scores.fused_unet import FusedUNet, obstacle
from sjc_fast.scores.text import pack
from sjc_fast.training.config import TrainConfig, merge
from tests.support import families
from tests.support.runs import assert_renderers_agree

PROMPTS = ["a red cube", "it"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return families.stable_diffusion_xl(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture(scope="module")
def pipe(folder):
    return StableDiffusionXLPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    return load_score_model(str(folder), device="cpu")


def test_what_it_is(model):
    assert (model.channels, model.size, model.latent, model.upscale) == (4, 16, True, 2)
    assert model.latents.scale == 0.13025


@torch.no_grad()
def test_d_and_an_euler_step_are_a_step_of_the_pipeline(folder, pipe, model):
    """With guidance; the pipeline's own scheduler takes the step from its own first noise level."""
    scheduler = EulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(12)
    states, avoided, pooled, pooled_avoided = pipe.encode_prompt(PROMPTS, device=torch.device("cpu"))
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    sizes = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 4)
    for i, t in enumerate(scheduler.timesteps[:3]):
        sigma, lower = scheduler.sigmas[i], scheduler.sigmas[i + 1]
        scaled = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        added = {"text_embeds": torch.cat([pooled_avoided, pooled]), "time_ids": sizes}
        uncond, cond = pipe.unet(scaled, t, torch.cat([avoided, states]), added_cond_kwargs=added).sample.chunk(2)
        theirs = scheduler.step(uncond + 5.0 * (cond - uncond), t, latents).prev_sample

        levels = sigma.expand(2)
        words, nothing = model.encode(PROMPTS), model.encode([""]).expand(2, -1, -1)
        cond, uncond = (model.denoise(latents, levels, condition) for condition in (words, nothing))
        denoised = uncond + 5.0 * (cond - uncond)
        ours = denoised + (latents - denoised) * (lower / sigma)
        # Guidance multiplies by five what rounding leaves of D, whose size is that of the noise.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(sigma))
        latents = theirs


def test_the_words_and_the_sizes_count(model):
    x, sigma = torch.randn(1, 4, 16, 16), torch.tensor([2.0])
    one, other = model.encode(PROMPTS).split(1)
    pooled = torch.cat([one[:, :-1], other[:, -1:]], dim=1)  # the states of one, the pooled vector of the other
    answers = [model.denoise(x, sigma, condition) for condition in (one, other, pooled)]
    assert float((answers[0] - answers[1]).abs().max()) > 1e-4
    assert float((answers[0] - answers[2]).abs().max()) > 1e-5


@torch.no_grad()
def test_nothing_said_is_zeros_where_the_pipeline_says_so(folder, model):
    assert not bool(model.encode([""]).any())
    other = StableDiffusionXLPipeline.from_pretrained(folder, force_zeros_for_empty_prompt=False)
    model._text.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    try:
        states, _, pooled, _ = other.encode_prompt("", device=torch.device("cpu"), do_classifier_free_guidance=False)
        nothing = model.encode([""])
        torch.testing.assert_close(nothing[:, : states.shape[1]], states)
        torch.testing.assert_close(nothing[:, states.shape[1]].flatten()[:20], pooled[0])
    finally:
        model._text.pipeline.register_to_config(force_zeros_for_empty_prompt=True)


@torch.no_grad()
def test_pictures(pipe, model):
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    theirs = (pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(model.decode(latents), theirs, rtol=1e-4, atol=1e-5)
    assert model.preview(latents).shape == (2, 3, 16, 16)
    white = model.preview(torch.zeros(1, 4, 1, 1)).flatten() * 255
    torch.testing.assert_close(white, torch.tensor([150.0, 140.0, 130.0]))


def test_half_precision_keeps_the_vae_in_float32(folder):
    half = load_score_model(str(folder), device="cpu", dtype=torch.float16)
    half.prepare_decoder()
    vae = half.latents.vae
    assert vae.dtype == torch.float32
    latents = torch.full((1, 4, 4, 4), 3e4)  # which no layer of float16 would bear
    assert bool(half.decode(latents).isfinite().all())
    with torch.no_grad():
        assert not bool(vae.half().decode((latents / vae.config.scaling_factor).half()).sample.isfinite().all())
    vae.float()


@torch.no_grad()
def test_the_fused_call_answers_as_diffusers_own(pipe):
    unet = pipe.unet.to(DEVICE, memory_format=torch.channels_last)
    assert obstacle(unet) is None
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 4, 16, 16, generator=generator).to(DEVICE, memory_format=torch.channels_last)
    text, pooled = (torch.randn(2, *shape, generator=generator).to(DEVICE) for shape in ((24, 64), (20,)))
    added = {"text_embeds": pooled, "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2, device=DEVICE)}
    inputs = (x, torch.tensor([3.5, 800.0], device=DEVICE), text)
    ours = FusedUNet(unet)(*inputs, added_cond_kwargs=added)[0]
    theirs = unet(*inputs, added_cond_kwargs=added).sample
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    unet.cpu()


@pytest.mark.slow
def test_a_run_by_every_renderer(model):
    assert_renderers_agree(model, merge(merge(TrainConfig(), PRESETS["paper"]), {"size": 8, "guidance": 5.0}))


def test_folders_of_other_kinds_are_refused_in_one_line(folder, tmp_path):
    index = folder / "model_index.json"
    kept = index.read_text()
    try:
        index.write_text(json.dumps({"_class_name": "WanPipeline", "transformer": ["diffusers", "Wan"]}))
        with pytest.raises(
            UserError, match=r"is a WanPipeline, which is not supported; known: StableDiffusionPipeline,"
        ):
            load_score_model(str(folder), device="cpu")
        index.write_text("{")
        with pytest.raises(UserError, match=r"cannot load model_index.json"):
            load_score_model(str(folder), device="cpu")
        index.write_text(kept.replace("StableDiffusionXLPipeline", "StableDiffusionPipeline"))
        with pytest.raises(UserError, match="wants more than an image and a text"):
            load_score_model(str(folder), device="cpu")
    finally:
        index.write_text(kept)
    (folder / "text_encoder_2").rename(tmp_path / "away")
    try:
        with pytest.raises(UserError, match="lacks text_encoder_2"):
            load_score_model(str(folder), device="cpu")
    finally:
        (tmp_path / "away").rename(folder / "text_encoder_2")


def test_lora_weights_are_merged_into_unet_and_both_text_encoders(folder, tmp_path):
    pipe = StableDiffusionXLPipeline.from_pretrained(folder)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        encoder.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"]))
    networks = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    for network in networks.values():
        for name, weight in network.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(network) for name, network in networks.items()}
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, **layers)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    plain, model = (load_score_model(str(folder), device="cpu", lora=lora) for lora in ((), path))
    with torch.no_grad():
        states, _, pooled, _ = pipe.encode_prompt("it", device=torch.device("cpu"), do_classifier_free_guidance=False)
        condition = model.encode(["it"])
        torch.testing.assert_close(condition, pack(states, pooled), rtol=1e-4, atol=1e-5)
        assert float((plain.encode(["it"]) - condition)[:, -1].abs().max()) > 1e-3
        x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]])}
        theirs = pipe.unet(x, 500, states, added_cond_kwargs=added).sample
        mine = model.predict(x, torch.tensor([500]), condition)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
