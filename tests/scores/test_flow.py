"""Flow models: tiny pipelines, saved by diffusers, loaded as users load them, against the pipelines' own steps."""

from typing import Any, NamedTuple

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from sjc_fast import UserError, load_score_model
from sjc_fast.runs.settings import PRESETS
from sjc_fast.scores.diffusers import DiffusersModel
from sjc_fast.scores.previews import fit_linear_map
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.trainer import Trainer
from tests.support import flow_families
from tests.support.command import QUICK, sjc
from tests.support.runs import assert_renderers_agree

PROMPTS = ["a red cube", "it"]
CPU = torch.device("cpu")


class Case(NamedTuple):
    """One kind of model."""

    name: str
    model: DiffusersModel
    pipe: Any
    channels: int
    size: int


NAMES = {"stable_diffusion_3": (16, 8), "flux": (16, 128), "sana": (32, 8), "z_image": (16, 128)}


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    getattr(flow_families, request.param)(folder)
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return Case(request.param, load_score_model(str(folder), CPU), pipe, *NAMES[request.param])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def as_pictures(name, latents):
    """Latents as a pipeline hands them to its scheduler, as [B, C, h, w]."""
    return FLUX_UNPACK(latents, 32, 32, 2) if name == "flux" else latents


def FLUX_UNPACK(latents, height, width, scale):
    from diffusers import FluxPipeline

    return FluxPipeline._unpack_latents(latents, height, width, scale)


def own_steps(case, guidance, steps=3):
    """What the pipeline itself hands to its scheduler and gets back, a step: t, next t, latents, latents afterwards."""
    taken = []
    scheduler = case.pipe.scheduler
    step = FlowMatchEulerDiscreteScheduler.step

    def watched(self, answer, timestep, sample, **options):
        after = step(self, answer, timestep, sample, **options)
        index = self.step_index - 1
        taken.append([float(self.sigmas[index]), float(self.sigmas[index + 1]), sample.clone(), after[0].clone()])
        return after

    options = {"height": 32, "width": 32, "num_inference_steps": steps, "generator": generator(3)}
    if case.name == "flux":
        options |= {"true_cfg_scale": guidance, "negative_prompt": [""] * 2, "guidance_scale": 3.5}
        options |= {"max_sequence_length": 512}
    elif case.name == "z_image":  # whose guidance is that of others less one
        options |= {"guidance_scale": guidance - 1, "negative_prompt": [""] * 2}
    else:
        options |= {"guidance_scale": guidance}
    if case.name == "sana":
        options |= {"use_resolution_binning": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(scheduler), "step", watched)
        case.pipe(list(PROMPTS), output_type="latent", **options)
    return [(t, lower, as_pictures(case.name, x), as_pictures(case.name, y)) for t, lower, x, y in taken]


def guided(model, x, sigma, scale):
    words, nothing = model.encode(list(PROMPTS)), model.encode([""]).expand(len(PROMPTS), -1, -1)
    cond, uncond = (model.denoise(x, sigma, condition) for condition in (words, nothing))
    return uncond + scale * (cond - uncond)


def test_what_it_is(case):
    model = case.model
    assert (model.channels, model.size, model.latent, model.upscale) == (case.channels, case.size, True, 2)
    assert model.preconditioning.law == "flow"
    torch.testing.assert_close(
        model.preconditioning.time(model.sigmas[[0, 499, 998]]).float(), torch.tensor([0.001, 0.5, 0.999])
    )


@torch.no_grad()
def test_d_and_an_euler_step_are_steps_of_the_pipeline(case):
    """With guidance, from the pipeline's own call, through its own scheduler."""
    steps = own_steps(case, 4.0)
    assert len(steps) == 3
    for t, lower, latents, after in steps:
        t = min(t, 1 - 1e-9)  # where all is noise, sigma has no end
        sigma, sigma_after = t / (1 - t), lower / (1 - lower)
        z = latents / (1 - t)
        denoised = guided(case.model, z, torch.full((2,), sigma), 4.0)
        ours = (denoised + (z - denoised) * (sigma_after / sigma)) * (1 - lower)
        torch.testing.assert_close(ours, after, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_pictures_there_and_back(case):
    pictures = torch.rand(2, 3, 16, 16, generator=generator(1))
    vae = case.pipe.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    said = vae.encode(pictures * 2 - 1)
    mean = said.latent if case.name == "sana" else said.latent_dist.mean
    latents = (mean - shift) * vae.config.scaling_factor
    torch.testing.assert_close(case.model.encode_image(pictures), latents, rtol=1e-4, atol=1e-5)
    theirs = (vae.decode(latents / vae.config.scaling_factor + shift).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(case.model.decode(latents), theirs, rtol=1e-4, atol=1e-5)


def test_a_preview_is_fitted_once_and_kept(case, tmp_path, monkeypatch):
    monkeypatch.setenv("SJC_FAST_CACHE", str(tmp_path))
    latents, latent_space = torch.randn(2, case.channels, 4, 4, generator=generator(2)), case.model.latents
    latent_space._fitted = None
    first = case.model.preview(latents)
    assert first.shape == (2, 3, 4, 4)
    (kept,) = (tmp_path / "previews").iterdir()
    monkeypatch.setattr("sjc_fast.scores.vae.fit_linear_map", lambda *_: pytest.fail("it is fitted again"))
    latent_space._fitted = None
    torch.testing.assert_close(case.model.preview(latents), first)
    kept.write_text("{")
    latent_space._fitted = None
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        case.model.preview(latents)


def test_a_fitted_map_finds_what_is_linear():
    """Of an encoder that averages, mixes and shifts colors, the map is the opposite, to rounding."""
    mix = torch.randn(5, 3, generator=generator(4))

    def encode(rgb):
        return torch.einsum("cr,vrhw->vchw", mix, torch.nn.functional.avg_pool2d(rgb, 2)) + 0.3

    rgb = torch.rand(1, 3, 8, 8, generator=generator(5))
    found = fit_linear_map(encode, 2)(encode(rgb))
    torch.testing.assert_close(found, torch.nn.functional.avg_pool2d(rgb, 2), rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_a_run_by_every_renderer(case):
    backends = ("reference", "cpu", *(("triton",) if case.name == "stable_diffusion_3" else ()))
    config = merge(merge(TrainConfig(), PRESETS["paper"]), {"size": 8, "guidance": 5.0})
    assert_renderers_agree(case.model, config, backends)


def test_bfloat16_where_the_network_was_made_for_it(case):
    half = load_score_model(str(case.pipe.config._name_or_path), CPU, case.model.adapter.half)
    x = torch.randn(2, case.channels, 8, 8, generator=generator(6))
    assert half._text.networks["text_encoder"].dtype == torch.bfloat16  # also where the network is float16
    assert half.network.dtype == (torch.float16 if case.name == "stable_diffusion_3" else torch.bfloat16)
    assert bool(half.denoise(x, torch.tensor([0.5, 5.0]), half.encode(list(PROMPTS))).isfinite().all())


def test_stable_diffusion_3_without_t5(tmp_path):
    folder = flow_families.stable_diffusion_3(tmp_path / "sd3", t5_too=False)
    model = load_score_model(str(folder), CPU)
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    with torch.no_grad():
        states, _, pooled, _ = pipe.encode_prompt(
            list(PROMPTS), None, None, device=CPU, do_classifier_free_guidance=False
        )
    condition = model.encode(list(PROMPTS))
    torch.testing.assert_close(condition[:, : states.shape[1]], states)
    torch.testing.assert_close(condition[:, states.shape[1] :].flatten(1)[:, :32], pooled)


def test_parts_of_another_family_are_refused_before_weights_are_read(tmp_path, monkeypatch):
    folder = flow_families.stable_diffusion_3(tmp_path / "sd3")
    monkeypatch.setattr("safetensors.safe_open", lambda *_a, **_k: pytest.fail("weights were read"))
    for path, old, new, words in (
        (
            "scheduler/scheduler_config.json",
            "FlowMatchEulerDiscreteScheduler",
            "DDIMScheduler",
            "not a scheduler of flow",
        ),
        ("transformer/config.json", "SD3Transformer2DModel", "FluxTransformer2DModel", "is a FluxTransformer2DModel"),
        ("transformer/config.json", '"out_channels": 16', '"out_channels": 8', "reads 16 channels and answers 8"),
        ("vae/config.json", '"latent_channels": 16', '"latent_channels": 4', "its vae makes 4 channels"),
        ("text_encoder/config.json", '"projection_dim": 20', '"projection_dim": 24', "text_encoder_2 say 36"),
        (
            "text_encoder_3/config.json",
            '"d_model": 128',
            '"d_model": 64',
            "reads 128 numbers a word, and text_encoder_3",
        ),
    ):
        file = folder / path
        kept = file.read_text()
        assert old in kept
        file.write_text(kept.replace(old, new))
        with pytest.raises(UserError, match=words):
            load_score_model(str(folder), CPU)
        file.write_text(kept)


def test_a_tokenizer_without_its_files_is_one_line(tmp_path):
    folder = flow_families.flux(tmp_path / "flux")
    for file in (folder / "tokenizer_2").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"its tokenizer_2 has no vocabulary: tokenizer\.json") as refused:
        load_score_model(str(folder), CPU)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stable_diffusion_3", "sana"])
def test_a_whole_run_writes_what_runs_write(name, tmp_path):
    """By the command: 16 or 32 channels through previews, turntable and mesh."""
    folder = getattr(flow_families, name)(tmp_path / name)
    done = sjc("train", "--prompt", "it", "--model", folder, "--size", "8", *QUICK, "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"turntable.mp4", "config.yaml"} <= written


def test_sizes_that_patches_do_not_divide_are_refused(case):
    if case.model.multiple == 1:  # Sana's patches are single latents
        return
    with pytest.raises(UserError, match=r"size 9: .* takes multiples of 2"):
        Trainer(merge(TrainConfig(), {"prompt": "it", "steps": 1, "size": 9}), case.model)


def test_which_steps_a_graph_can_hold(case):
    assert case.model.capturable == (case.name != "z_image")


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(case, caplog):
    words = " ".join(f"word{i}" for i in range(400))
    with caplog.at_level("WARNING", "sjc_fast"):
        case.model.encode([f"it {words} end"])
    (record,) = caplog.records
    assert record.getMessage().startswith("the prompt is longer than the model reads; not seen: ")
    assert record.getMessage().endswith("end")
