"""MVDream's kind: four views in one call, each with its camera, against an independent joined attention."""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from benchmarks import pipelines
from sjc_fast import UserError, load_score_model
from sjc_fast.paas import paas_score, rescaled
from sjc_fast.runs.settings import default_config
from sjc_fast.scene.cameras import orbit
from sjc_fast.scene.field import VoxelField
from sjc_fast.scores.convert import convert_mvdream
from sjc_fast.scores.multiview import camera_numbers
from sjc_fast.scores.sampling import Sampler, sample
from sjc_fast.training.config import TrainConfig, digest, merge
from sjc_fast.training.schedule import draw_schedule
from sjc_fast.training.trainer import Trainer
from tests.support.ldm import original_names
from tests.support.runs import assert_renderers_agree

CPU = torch.device("cpu")
CAMERA = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def unet(base):
    torch.manual_seed(1)
    plain = UNet2DConditionModel.load_config(base / "unet")
    return UNet2DConditionModel.from_config(plain | CAMERA | {"sample_size": 32}).eval()


@pytest.fixture(scope="module")
def folder(base, unet, tmp_path_factory):
    """A converted checkpoint."""
    where = tmp_path_factory.mktemp("converted")
    save_file(
        {f"model.diffusion_model.{k}": v.contiguous() for k, v in original_names(unet).items()},
        where / "mv.safetensors",
    )
    convert_mvdream(where / "mv.safetensors", str(base), where / "mvdream")
    return where / "mvdream"


def published(unet):
    """A UNet's tensors by the names that MVDream's checkpoints have."""
    return {f"model.diffusion_model.{k}": v.contiguous() for k, v in original_names(unet).items()}


@pytest.fixture(scope="module")
def model(folder):
    return load_score_model(str(folder), CPU)


def cameras(count=4):
    return orbit(torch.arange(count) * 90.0 + 20, torch.full((count,), 15.0), 2.5, 40.0).c2w


def the_authors_cameras(elevation, azimuths):
    """Numbers of MVDream's own cameras: built with y up, turned to z up, at distance 1."""
    found = []
    for azimuth in np.radians(azimuths):
        e = np.radians(elevation)
        eye = np.array([np.cos(e) * np.sin(azimuth), np.sin(e), np.cos(e) * np.cos(azimuth)])
        forward = -eye / np.linalg.norm(eye)
        right = np.cross(forward, [0, 1, 0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(right, forward), -forward], axis=1)
        pose[:3, 3] = eye
        upright = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        found.append((upright @ pose).flatten())
    return torch.tensor(np.stack(found)).float()


def test_cameras_are_told_as_the_authors_tell_them():
    """Our front is theirs, and azimuths grow the same way round."""
    azimuths = [0.0, 35.0, 90.0, 200.0]
    mine = camera_numbers(orbit(torch.tensor(azimuths), torch.full((4,), 15.0), 2.5, 40.0).c2w)
    torch.testing.assert_close(mine, the_authors_cameras(15.0, azimuths), rtol=1e-5, atol=1e-6)


def joined(attention, states):
    """Attention over the places of each four views, head by head and row by row, in float64."""
    heads, outputs = attention.heads, []
    for four in states.double().split(4):
        places = torch.cat(list(four))
        q, k, v = (layer.weight.double() @ places.T for layer in (attention.to_q, attention.to_k, attention.to_v))
        rows = []
        for h in range(heads):
            part = slice(h * len(q) // heads, (h + 1) * len(q) // heads)
            weights = torch.softmax(q[part].T @ k[part] / (len(q) // heads) ** 0.5, dim=1)
            rows.append(weights @ v[part].T)
        out = attention.to_out[0]
        answer = torch.cat(rows, dim=1) @ out.weight.double().T + out.bias.double()
        outputs.append(answer.reshape(four.shape))
    return torch.cat(outputs).float()


@torch.no_grad()
def test_against_an_independent_joined_attention(model, unet):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, 32, 32, generator=generator)
    tick, c2w = torch.full((8,), 300), torch.cat([cameras(), cameras().flip(0)])
    words = model.place_cameras(model.encode(["it"] * 8), c2w)
    embedding = unet.time_embedding
    told = unet.class_embedding
    plain = UNet2DConditionModel.from_config(
        unet.config | {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    ).eval()
    plain.load_state_dict({k: v for k, v in unet.state_dict().items() if not k.startswith("class_embedding")})
    camera = told.linear_2(torch.nn.functional.silu(told.linear_1(camera_numbers(c2w))))
    plain.time_embedding.forward = lambda sample, *_: embedding(sample) + camera
    for name, module in plain.named_modules():
        if name.endswith("attn1"):
            module.forward = lambda states, *_, of=module, **__: joined(of, states)
    truth = plain(x, tick, words[:, :-1]).sample
    mine = model.predict(x, tick, words)
    torch.testing.assert_close(mine, truth, rtol=1e-4, atol=2e-5)
    alone = model.predict(x[:4].clone(), tick[:4], words[:4])
    torch.testing.assert_close(alone, mine[:4], rtol=1e-4, atol=2e-5)  # two rigs do not look at each other
    x[3] += 1.0
    assert float((model.predict(x, tick, words)[:3] - mine[:3]).abs().max()) > 1e-3  # a rig's views do


def test_a_converted_checkpoint_has_the_same_weights(folder, unet, tmp_path, base):
    found = UNet2DConditionModel.from_pretrained(folder / "unet")
    for name, value in unet.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    torch.save(
        {"state_dict": {f"model.diffusion_model.{k}": v for k, v in original_names(unet).items()}}, tmp_path / "mv.pt"
    )
    convert_mvdream(tmp_path / "mv.pt", str(base), tmp_path / "again")
    assert (tmp_path / "again/unet/diffusion_pytorch_model.safetensors").exists()


def test_checkpoints_that_cannot_be(unet, base, tmp_path):
    def refused(path, message, output=tmp_path / "out"):
        with pytest.raises(UserError, match=message):
            convert_mvdream(path, str(base), output)
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "none.pt", "there is no such file")
    (tmp_path / "odd.pt").write_bytes(b"not one")
    refused(tmp_path / "odd.pt", "cannot be read")
    names = published(unet)
    plain = tmp_path / "plain.safetensors"
    save_file({k: v for k, v in names.items() if "camera" not in k}, plain)
    refused(plain, "nothing in it reads cameras")
    save_file({k: v for k, v in names.items() if ".out.2" not in k}, plain)
    refused(plain, "does not fit the base model")
    refused(plain, "it exists already", base)


def test_what_suits_it(folder):
    config = default_config(str(folder))
    assert (config.views, config.guidance, config.score.weighting, config.score.guidance_rescale) == (
        4,
        50.0,
        "sigma2",
        0.5,
    )
    assert (config.cameras.sampling, config.cameras.words, config.cameras.radius) == ("rig", "none", 2.5)
    (folder / "sjc_fast.json").write_text(json.dumps({"defaults": {"cameras": {"radius": 3.0}}}))
    try:
        own = default_config(str(folder))
        assert (own.cameras.sampling, own.cameras.radius) == ("rig", 3.0)
    finally:
        (folder / "sjc_fast.json").unlink()


def test_a_rig(model):
    rig = {"sampling": "rig", "elevation": [5, 20]}
    config = merge(TrainConfig(), {"prompt": "it", "steps": 3, "views": 8, "cameras": rig})
    rows = draw_schedule(config, VoxelField(6, 4), model.sigmas, 16).rows
    rigs = rows.c2w.reshape(6, 4, 4, 4)[:, :, :3, 3]
    assert not torch.equal(rows.sigma[0, :4], rows.sigma[0, 4:])
    for step in range(3):
        for four in (slice(0, 4), slice(4, 8)):
            assert len(rows.sigma[step, four].unique()) == len(rows.fov[step, four].unique()) == 1
    torch.testing.assert_close(rigs[:, 0, 1:2].expand(-1, 4), rigs[:, :, 1])  # one height
    torch.testing.assert_close(rigs[:, 0, ::2], -rigs[:, 2, ::2])  # half a turn
    across = (rigs[:, 0, ::2] * rigs[:, 1, ::2]).sum(1)
    torch.testing.assert_close(across, torch.zeros(6), rtol=0, atol=1e-5)
    elevation = torch.rad2deg(torch.asin(rigs[:, 0, 1] / 1.5))
    assert bool(((elevation > 5) & (elevation < 20)).all())


def test_guidance_is_rescaled_over_the_views_of_a_rig():
    generator = torch.Generator().manual_seed(0)
    guided, plain = (torch.randn(8, 1, 4, 5, 5, generator=generator) * s for s in (9.0, 2.0))
    found = rescaled(guided, plain, 0.5, 4)
    for four in (slice(0, 4), slice(4, 8)):
        share = 0.5 * plain[four].std() / guided[four].std() + 0.5
        torch.testing.assert_close(found[four], share * guided[four])


@pytest.mark.slow
def test_a_run_by_every_renderer(model, folder):
    assert_renderers_agree(model, merge(default_config(str(folder)), {"size": 8}))


def test_pictures_of_a_rig(model):
    sampler = Sampler(steps=2)
    generator = torch.Generator().manual_seed(0)
    assert bool(sample(model, ["it"] * 4, sampler, generator=generator, c2w=cameras()).isfinite().all())
    with pytest.raises(UserError, match="say from which cameras"):
        sample(model, ["it"] * 4, sampler)
    with pytest.raises(UserError, match="makes 4 views at once"):
        sample(model, ["it"] * 3, sampler)


def test_what_it_cannot_score_is_refused(model, base):
    with pytest.raises(ValueError, match="with their cameras at once"):
        paas_score(model, torch.zeros(4, 4, 8, 8), 1.0, "it")
    with pytest.raises(ValueError, match="scores 4 views at once, and not 3"):
        model.denoise(torch.zeros(3, 4, 8, 8), torch.ones(3), model.encode(["it"] * 3))
    tree = {"prompt": "it", "steps": 2, "size": 8, "views": 4, "field": {"resolution": 6}}
    rig = {"cameras": {"sampling": "rig"}}
    for changes, message in (
        ({}, "scores views of a rig at once; choose rig"),
        (rig | {"noise_samples": 2}, "scores one a view; raise"),
        (rig | {"views": 6}, "a rig has 4 views, so give a multiple of 4"),
    ):
        with pytest.raises(UserError, match=message):
            Trainer(merge(TrainConfig(), tree | changes), model)
    index = base / "model_index.json"
    kept = index.read_text()
    index.write_text(kept.replace("StableDiffusionPipeline", "MVDreamPipeline"))
    try:
        with pytest.raises(UserError, match="its UNet takes no cameras"):
            load_score_model(str(base), CPU)
    finally:
        index.write_text(kept)


def test_runs_of_before_are_known_as_they_were():
    config = TrainConfig(prompt="x")
    assert digest(merge(config, {"cameras": {"elevation": [1, 2]}})) != digest(config)
    assert digest(merge(config, {"score": {"guidance_rescale": 0.3}})) != digest(config)
