"""The experiments, small: each runs through the command and leaves its figure, numbers and text."""

import json

import imageio.v3 as iio
import pytest
import torch

from benchmarks import pipelines
from sjc_fast.cli import main
from sjc_fast.experiments import EXPERIMENTS
from sjc_fast.experiments.frame import interval, told
from sjc_fast.experiments.known import KnownScenes, true_picture
from sjc_fast.experiments.unknown import UnknownScenes
from sjc_fast.scores.load import load_score_model
from sjc_fast.settings import default_config
from sjc_fast.shapes.truth import judge, true_views
from tests.test_evaluate import ball


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return str(pipelines.stable_diffusion(tmp_path_factory.mktemp("sd") / "tiny"))


@pytest.fixture(scope="module")
def embedded():
    return load_score_model("shapes", "cpu")


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("model", ["embedded", "latents"])
def test_small(name, model, tmp_path, capsys, request):
    other = ["--model", request.getfixturevalue("latents"), "--prompt", "a strawberry", "--steps", "400"]
    arguments = ["experiment", name.replace("_", "-"), "--small", "--device", "cpu", "--output", str(tmp_path)]
    main(arguments + (other if model == "latents" else []))
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["experiment"] == name
    assert record["small"] is True
    assert record["numbers"]
    assert record["measured"] in " ".join(capsys.readouterr().out.split())
    picture = iio.imread(tmp_path / f"{name}.png")
    assert picture.shape[0] > 200
    assert picture[..., :3].std() > 10
    page = tmp_path.with_name(tmp_path.name + ".md").read_text()
    assert f"## {name.replace('_', '-')}" in page
    assert record["claim"] in page


def test_intervals():
    assert interval([3.0]) == (3.0, 0.0)
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / 3**0.5, rel=1e-3)  # Student's t with 2 degrees of freedom
    assert told([1.0, 2.0, 3.0], 1) == "2.0 ± 2.5"


def test_floaters_are_mass_outside_the_object(embedded):
    field = ball(0.62)
    stray = KnownScenes(embedded).stray
    clean = stray(field, "a blue ball")
    assert clean["floaters"] < 0.01
    assert clean["offset"] < 0.01
    with torch.no_grad():
        inside = (field.density > 0).sum()
        field.density[2:12, 2:12, 2:12] = 300.0  # a cube in a corner
    assert stray(field, "a blue ball")["floaters"] == pytest.approx(1000 / float(inside + 1000), rel=0.03)


def test_floaters_of_an_unknown_object_are_what_does_not_hang_together(embedded):
    field = ball(0.5)
    stray = UnknownScenes(embedded, default_config("shapes"), "a blue ball").stray
    assert stray(field, "") == {"floaters": 0.0, "offset": pytest.approx(0, abs=1e-3)}
    with torch.no_grad():
        inside = (field.density > 0).sum()
        field.density[2:7, 2:7, 2:7] = 300.0
    assert stray(field, "")["floaters"] == pytest.approx(125 / float(inside + 125), rel=0.03)


def test_a_field_with_the_front_on_every_side_has_seven_faces_too_many(embedded):
    """A house whose picture does not turn, held against a real one."""
    known, prompt = KnownScenes(embedded), "a green house"
    truth, _ = true_views(prompt, held_out=False)
    known.views = lambda field: truth
    assert known.faces(None, prompt) == 0
    known.views = lambda field: truth[:1].expand_as(truth)
    assert known.faces(None, prompt) == 1


def test_a_model_that_judges_itself_agrees_with_the_truth(embedded):
    """Of pictures over grey, those that show what the words say are likelier with them than others are."""
    stage = UnknownScenes(embedded, default_config("shapes"), "a red mushroom")
    caption = "front left view of a red mushroom"
    right, wrong, side = (
        true_picture(c)[0] for c in (caption, "front left view of a green house", "left view of a red mushroom")
    )
    gains = [stage.judge_picture(x, caption) for x in (right, side, wrong, torch.zeros_like(right))]
    assert gains[0] > 1
    assert gains[0] > max(gains[1:])
    field = ball(0.62)
    assert stage.judge(field, "a blue ball")["gain"] > stage.judge(field, "a red cube")["gain"]
    assert judge(field, "a blue ball").psnr > 20
    # The same views, and words of the front for all of them: a house's sides differ, and only its own are likely.
    truth, _ = true_views("a green house", held_out=False)
    small = torch.nn.functional.interpolate(truth, 64, mode="area") * 2 - 1
    stage._features = lambda field: small
    assert stage.faces(None, "a green house") == 0
    stage._features = lambda field: small[:1].expand_as(small)
    assert stage.faces(None, "a green house") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "LATENTS"], 'should make, e.g. --prompt "a ripe strawberry"'),
        (["--prompt", "a mushroom"], "'a mushroom' has no known truth: it names no colour"),
        (["--prompt", "a strawberry"], "strawberry"),
        (["--steps", "0"], "--steps 0: it must be between 1 and"),
    ],
)
def test_what_cannot_be_tried_is_refused(arguments, said, latents, capsys, tmp_path):
    arguments = [latents if a == "LATENTS" else a for a in arguments]
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "ood", "--device", "cpu", "--output", str(tmp_path), *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_experiments_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["experiment", "nothing"])
    assert "there is no experiment 'nothing': choose ood, paas, sigma-schedule" in capsys.readouterr().err
