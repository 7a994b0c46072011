"""The embedded model: its pictures, its words, its training recipe, its weights, and what it makes."""

import dataclasses

import pytest
import torch
from safetensors import safe_open

from sjc_fast import load_score_model, ring
from sjc_fast.scene.cameras import name_directions
from sjc_fast.scores.load import embedded_folder
from sjc_fast.shapes import train as recipe
from sjc_fast.shapes.dataset import FOV, RADIUS, SIZE, Pictures, direction_cameras, render_views
from sjc_fast.shapes.model import build_tokenizer
from sjc_fast.shapes.objects import COLORS, OBJECTS
from sjc_fast.shapes.prompts import DIRECTIONS, caption, read
from sjc_fast.shapes.scenes import Layers
from sjc_fast.shapes.truth import FACING


@pytest.fixture(scope="module")
def model():
    return load_score_model("shapes", device="cpu")


def test_it_is_small_and_says_what_it_knows(model):
    size = sum(f.stat().st_size for f in embedded_folder().rglob("*") if f.is_file())
    assert size <= 20e6
    assert model.vocabulary.objects == tuple(OBJECTS)
    assert model.vocabulary.colors == tuple(COLORS)
    assert len(OBJECTS) >= 16
    assert len(COLORS) >= 8
    assert (model.channels, model.size, model.latent) == (3, SIZE, False)


def test_its_text_weights_have_the_names_that_every_transformers_version_reads():
    with safe_open(embedded_folder() / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118 (not a dict)


def test_different_prompts_encode_differently_and_filler_is_harmless(model):
    prompts = [caption(name, color, d) for name in OBJECTS for color in COLORS for d in (None, 0, 9)]
    rows = model.encode(prompts).flatten(1)
    distance = torch.cdist(rows, rows) + torch.eye(len(rows)) * 1e3
    assert float(distance.min()) > 1e-2
    plain, filled = model.encode(
        ["front view of a red mushroom", "Front view of, a high quality photo of a red mushroom"]
    )
    assert torch.equal(plain, filled)
    two, turned = model.encode(["a red mushroom with a blue stem", "a blue stem under a red mushroom"])
    assert torch.equal(two, turned)
    assert not torch.equal(two, model.encode(["a blue mushroom with a red stem"])[0])


def test_tokenizer_knows_every_word_it_should():
    tokenizer = build_tokenizer()
    for name in OBJECTS:
        for color in COLORS:
            for d in range(len(DIRECTIONS)):
                second = color if OBJECTS[name].accent else ""
                filler = ("a", "an", "view", "of", "with")
                words = [w for w in caption(name, color, d, second).split() if w not in filler]
                assert tokenizer.unk_token_id not in tokenizer(" ".join(words)).input_ids


def test_captions_are_read_back():
    for name, thing in OBJECTS.items():
        for d in (None, *range(len(DIRECTIONS))):
            for color, second in (("", ""), ("red", ""), ("orange", "blue" if thing.accent else "")):
                assert read(caption(name, color, d, second)) == (name, color, second, d)
    assert caption("table", "", None, "orange") == "a table with orange legs"
    assert caption("duck", "orange", 0, "orange") == "low front view of an orange duck with an orange beak"


def test_directions_cover_what_they_name_once():
    middle = torch.tensor([(sum(d.azimuth) / 2, sum(d.elevation) / 2) for d in DIRECTIONS])
    assert name_directions(middle[:, 0], middle[:, 1], DIRECTIONS).tolist() == list(range(24))
    assert len({d.words for d in DIRECTIONS}) == 24
    assert len(direction_cameras()) == 24


def test_pictures_agree_with_the_geometry():
    """A ball of radius 0.62 covers the disc that perspective says, and the car's lamps face the front."""
    camera = ring(1, 0, RADIUS, FOV)
    coverage = render_views("ball", camera, 64).coverage[0, 0]
    tangent = 0.62 / (RADIUS**2 - 0.62**2) ** 0.5
    radius = 32 * tangent / torch.tan(torch.deg2rad(torch.tensor(FOV / 2)))
    assert float(coverage.sum()) == pytest.approx(float(torch.pi * radius**2), rel=0.01)
    front, back = (render_views("car", ring(1, 0, RADIUS, FOV, start=a), 64) for a in (0.0, 180.0))
    bright = lambda layers: int((layers.fixed.amin(dim=1) > 0.7).sum())  # noqa: E731
    assert bright(front) > bright(back) + 10


def changed_pixels(name):
    """Pixels whose material differs between the front and the mirrored back view (light plays no part)."""
    views = render_views(name, ring(2, 20, RADIUS, FOV), 64)
    painted = (views.main > 0.02).float()
    return int((painted[0] - painted[1].flip(-1)).abs().sum())


def test_faces_differ_from_backs():
    assert changed_pixels("cube") <= 2
    assert changed_pixels("ball") <= 2
    for name in FACING:
        assert changed_pixels(name) > 8, name


def test_painting():
    half = torch.full((1, 1, 2, 2), 0.5)
    layers = Layers(half, half / 4, torch.zeros(1, 3, 2, 2), half * 1.5)
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    assert layers.paint(*colors[:, None])[0, :, 0, 0].tolist() == [0.5, 0.25, 0.375]
    glaring = Layers(half * 4, half * 0, torch.zeros(1, 3, 2, 2), half * 1.5)
    assert glaring.paint(*colors[:, None])[0, :, 0, 0].tolist() == [0.75, 0.25, 0.25]


def test_pictures_are_their_layouts_over_a_background():
    bank = {name: render_views(name, direction_cameras(), supersample=1) for name in ("cube", "cone")}
    batch = Pictures(bank).batch(64, torch.Generator().manual_seed(0))
    coverage = batch.layouts[:, 3:]
    clear = coverage == 0
    for picture, layout, where in zip(batch.pictures, batch.layouts, clear, strict=True):
        background = picture[:, where[0]].mean(dim=1)[:, None, None]
        torch.testing.assert_close(picture, layout[:3] + (1 - layout[3:]) * background, atol=1e-5, rtol=0)
    said = [caption for caption in batch.captions if "cone" in caption]
    assert 0.3 < sum("stripe" in caption for caption in said) / len(said) < 0.7
    assert not any("with" in caption for caption in batch.captions if "cube" in caption)


def test_the_recipe_trains_resumes_exactly_and_writes_a_model_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "load_bank", lambda *_: bank)
    bank = {name: render_views(name, direction_cameras(), supersample=1) for name in ("cube", "ball")}
    options = {"layout_batch": 8, "layout_steps": 2, "batch": 4, "steps": 2, "warmup": 1, "bf16": False}
    whole = recipe.Recipe(**options, work=tmp_path / "a", output=tmp_path / "a" / "out", save_every=4)
    halves = recipe.Recipe(**options, work=tmp_path / "b", output=tmp_path / "b" / "out", save_every=2)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    recipe.train(whole)

    class Stop(Exception):
        pass

    def save_and_stop(self, save=recipe.Training.save):
        save(self)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(recipe.Training, "save", save_and_stop)
        with pytest.raises(Stop):
            recipe.train(halves)
    recipe.train(halves)
    with pytest.raises(SystemExit, match="another recipe"):
        recipe.train(dataclasses.replace(halves, adamw_lr=1.0))
    one, two = (load_score_model(str(r.output), device="cpu") for r in (whole, halves))
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.preconditioning.prediction == "sample"
    batch = Pictures(bank).batch(4, torch.Generator().manual_seed(0))
    conditions = [model.encode(batch.captions) for model in (one, two)]
    assert torch.equal(*conditions)
    assert one.denoise(batch.pictures, torch.ones(4), conditions[0]).shape == batch.pictures.shape


def test_it_denoises_what_it_knows(model):
    """At moderate noise the right words give a far better picture than no denoising, and than the wrong words."""
    view = 1  # low front left
    camera = direction_cameras()[view : view + 1]
    colors = torch.tensor([COLORS["blue"], OBJECTS["house"].second(), (0.6, 0.6, 0.6)])
    clean = render_views("house", camera).paint(*colors) * 2 - 1
    noisy = clean + 3.0 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    error = lambda prompt: float(  # noqa: E731
        (model.denoise(noisy, torch.tensor([3.0]), model.encode([prompt])) - clean).square().mean()
    )
    right = error(caption("house", "blue", view))
    assert right < 0.03
    assert error(caption("mushroom", "red", view)) > 2 * right
    assert error(caption("house", "yellow", view)) > 1.5 * right
