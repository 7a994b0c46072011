"""The experiments: small ones through the command; what they measure, against cases with a known answer."""

import json
import math

import imageio.v3 as iio
import pytest
import torch

from sjc_fast import MixtureModel
from sjc_fast.cli import main
from sjc_fast.experiments import EXPERIMENTS, janus, paas, regularisers, sds
from sjc_fast.experiments.context import Context
from sjc_fast.experiments.known import KnownScenes, true_picture
from sjc_fast.experiments.run_cache import RunCache
from sjc_fast.experiments.runs import config_for, evaluations, make, steps_for
from sjc_fast.experiments.statistics import all_hold, format_ci, interval, mean_exceeds, paired_difference, values_of
from sjc_fast.experiments.unknown import UnknownScenes
from sjc_fast.runs.settings import default_config
from sjc_fast.scores.load import load_score_model
from sjc_fast.shapes.truth import held_out_cameras, judge, true_views
from sjc_fast.shapes.world import ExactWorld
from sjc_fast.training.config import CameraConfig, LossConfig, digest
from tests.support import pipelines
from tests.support.fields import ball

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return str(pipelines.stable_diffusion(tmp_path_factory.mktemp("sd") / "tiny"))


@pytest.fixture(scope="module")
def embedded():
    return load_score_model("shapes", "cpu")


@pytest.fixture
def unknown(embedded):
    """The embedded model, as if nobody knew its scenes."""
    return UnknownScenes(embedded, default_config("shapes"), "a red mushroom")


def context(model, path, **changes):
    base = default_config("shapes")
    own = {"model": model, "name": "shapes", "prompt": "", "judge": KnownScenes(), "base": base, "device": CPU}
    own |= {"seeds": (0, 1), "small": True, "run_cache": RunCache(path / "runs.jsonl"), "say": print}
    return Context(**(own | changes))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("model", ["embedded", "latents"])
def test_small(name, model, tmp_path, capsys, request):
    other = ["--model", request.getfixturevalue("latents"), "--prompt", "a strawberry"]
    folder = tmp_path / "found"
    arguments = ["experiment", name.replace("_", "-"), "--small", "--steps", "160", "--device", "cpu"]
    arguments += ["--output", str(folder)]
    main(arguments + (other if model == "latents" else []))
    record = json.loads((folder / f"{name}.json").read_text())
    assert (record["experiment"], record["small"], record["seeds"]) == (name, True, [0])
    assert record["settings"]["steps"] == 8  # a twentieth
    assert record["prompt"] == ("a strawberry" if model == "latents" else "")
    assert record["numbers"]
    assert record["measured"] in " ".join(capsys.readouterr().out.split())
    picture = iio.imread(folder / f"{name}.png")
    assert picture.shape[0] > 200
    assert picture[..., :3].std() > 10
    page = (tmp_path / "found.md").read_text()
    assert f"## {name.replace('_', '-')}" in page
    assert record["claim"] in page
    rows = [r for part in record["numbers"].values() if isinstance(part, list) for r in part if isinstance(r, dict)]
    assert all(math.isfinite(v) for r in rows for v in r.values() if isinstance(v, float))


def test_intervals_are_over_seeds():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / 3**0.5, rel=1e-3)  # Student's t with 2 degrees of freedom
    assert format_ci([1.0, 2.0, 3.0], 1) == "2.0 ± 2.5"
    assert format_ci([3.0], 1) == "3.0"  # which has none
    rows = [{"seed": s, "prompt": p, "x": 10 * s + p} for s in (1, 0) for p in (1, 3)]
    assert values_of(rows, "x") == [2, 12]
    assert values_of(rows, "x", prompt=3) == [3, 13]
    assert paired_difference([3, 5], [1, 1]) == [2, 4]


def test_verdicts_need_the_whole_interval():
    assert mean_exceeds([1.0, 1.1, 1.2]) is True
    assert mean_exceeds([-1.0, -1.1, -1.2]) is False
    assert mean_exceeds([1.0, -1.1, 1.2]) is None
    assert mean_exceeds([1.0]) is None
    assert mean_exceeds([1.0, 1.1, 1.2], 2.0) is False
    assert [all_hold(True, x) for x in (True, None, False)] == [True, None, False]
    assert all_hold(None, False) is False


def test_variants_differ_and_take_as_many_evaluations(embedded, tmp_path):
    where = context(embedded, tmp_path)
    tables = {
        "sds": (sds.variants(), lambda changes: changes | {"steps": steps_for(where, changes["noise_samples"])}),
        "paas": (paas.variants(), lambda changes: changes | {"steps": steps_for(where, changes["noise_samples"])}),
        "regularisers": (regularisers.variants(LossConfig()), lambda changes: {"losses": changes}),
        "janus": (janus.variants(CameraConfig(sampling="directions")), lambda changes: {"cameras": changes}),
    }
    for name, (table, whole) in tables.items():
        configs = [config_for(where, "a red mushroom", 0, whole(changes)) for changes in table.values()]
        for config in configs:
            config.check()
        assert len({digest(config) for config in configs}) == len(configs), name
        assert len({evaluations(config) for config in configs}) == 1, name
        assert evaluations(configs[0]) == 800
    assert list(janus.variants(CameraConfig())) == ["words", "no words", "blended words"]


def test_finished_runs_are_not_made_again(embedded, tmp_path):
    where = context(embedded, tmp_path)
    config = config_for(where, "a red ball", 0, {"steps": 3, "field": {"resolution": 8}})
    rows = make(where, config, (0.5,), lambda field, _: {"voxels": field.density.numel()})
    assert [r["step"] for r in rows] == [2, 3]
    assert rows[-1]["voxels"] == 512
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"run": "cut o')
    again = context(None, tmp_path)  # without a model nothing can run
    assert make(again, config, (0.5,)) == rows
    with pytest.raises(AttributeError):
        make(again, config_for(again, "a red ball", 1, {"steps": 3}))


def test_floaters_are_mass_outside_the_object():
    field, stray = ball(0.62), KnownScenes().stray
    clean = stray(field, "a blue ball")
    assert max(clean.values()) < 0.02
    with torch.no_grad():
        inside = (field.density > 0).sum()
        field.density[2:12, 2:12, 2:12] = 300.0  # a cube in a corner
    dirty = stray(field, "a blue ball")
    assert dirty["outside"] == pytest.approx(1000 / float(inside + 1000), rel=0.03)
    assert dirty["solid"] == pytest.approx(dirty["outside"], rel=0.01)
    assert dirty["haze"] > 0.01
    assert dirty["offset"] > 0.02


def test_fog_is_mass_but_not_solid():
    field, stray = ball(0.62), KnownScenes().stray
    with torch.no_grad():
        field.density.clamp_min_(field.raw_density(0.3))
    foggy = stray(field, "a blue ball")
    assert foggy["solid"] < 0.02
    assert foggy["outside"] > 0.05
    assert foggy["haze"] > 0.2


@pytest.mark.parametrize("judge", ["known", "unknown"])
def test_a_shifted_object_is_off_by_its_shift(judge, unknown):
    """As the cameras see it: the shifted center in the picture's plane, nearer or farther by perspective."""
    field = ball(0.3)
    stray, cameras = KnownScenes().stray, held_out_cameras()
    if judge == "unknown":
        stray, cameras = unknown.stray, unknown.cameras
    before = stray(field, "a blue ball")["offset"]
    with torch.no_grad():
        side = field.density.shape[0]
        field.density.copy_(field.density.roll(side // 10, dims=2))
    after = stray(field, "a blue ball")["offset"]
    assert before < 0.02
    shift = torch.tensor([(side // 10) * 2 / side, 0.0, 0.0])
    eyes, axes = cameras.c2w[:, :3, 3], cameras.c2w[:, :3, :2]
    distance = eyes.norm(dim=1)
    depth = distance - (eyes / distance[:, None]) @ shift
    # A ball's silhouette is an ellipse whose center lies farther out than the ball's, by 1 / (1 - (radius / depth)^2).
    expected = (axes.transpose(1, 2) @ shift).norm(dim=1) * distance / depth / (1 - (0.3 / depth) ** 2)
    assert after == pytest.approx(float(expected.mean()), rel=0.05)  # it is made of voxels


def test_floaters_of_an_unknown_object_are_what_does_not_hang_together(unknown):
    field = ball(0.5)
    assert unknown.stray(field, "") == {"solid": 0.0, "offset": pytest.approx(0, abs=0.02)}
    with torch.no_grad():
        inside = (field.density > 0).sum()
        field.density[2:7, 2:7, 2:7] = 300.0
    assert unknown.stray(field, "")["solid"] == pytest.approx(125 / float(inside + 125), rel=0.03)


@pytest.mark.slow
def test_a_field_with_the_front_on_every_side_has_seven_faces_too_many():
    """A house whose picture does not turn, held against a real one."""
    known, prompt = KnownScenes(), "a green house"
    truth, _ = true_views(prompt, held_out=False)
    known.views = lambda field: truth
    assert known.faces(None, prompt) == 0
    known.views = lambda field: truth[:1].expand_as(truth)
    assert known.faces(None, prompt) == 1


@pytest.mark.slow
def test_a_model_that_judges_itself_agrees_with_the_truth(unknown):
    """Of pictures over gray, those that show what the words say are likelier with them than others are."""
    caption = "front left view of a red mushroom"
    right, wrong, side = (
        true_picture(c)[0] for c in (caption, "front left view of a green house", "left view of a red mushroom")
    )
    gains = [unknown.judge_picture(x, caption) for x in (right, side, wrong, torch.zeros_like(right))]
    assert gains[0] > 1
    assert gains[0] > max(gains[1:])
    field = ball(0.62)
    assert unknown.judge(field, "a blue ball")["gain"] > unknown.judge(field, "a red cube")["gain"]
    assert judge(field, "a blue ball").psnr > 20
    # A house's sides differ, and only its own are likely; then one picture from all sides.
    truth, _ = true_views("a green house", held_out=False)
    small = torch.nn.functional.interpolate(truth, 64, mode="area") * 2 - 1
    unknown._features = lambda field: small
    assert unknown.faces(None, "a green house") == 0
    unknown._features = lambda field: small[:1].expand_as(small)
    assert unknown.faces(None, "a green house") == 1


def test_pictures_are_judged_by_the_nearest_direction():
    x = true_picture("left view of a red mushroom")[0]
    assert KnownScenes().judge_picture(x, "left view of a red mushroom") > 60
    assert KnownScenes().judge_picture(x, "front view of a red mushroom") < 30
    assert KnownScenes().judge_picture(x, "a red mushroom") > 60


@pytest.mark.parametrize("sigma", [0.3, 2.0, 10.0])
def test_the_exact_denoiser_of_all_scenes_is_the_score(sigma):
    """``D = x + sigma^2 grad log p``, whatever is noisy; and D of a slightly noisy picture is the picture."""
    world = ExactWorld(("mushroom", "cube"), slice(8, 10))
    x = (0.1 + sigma * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    level = torch.full((2,), sigma)
    (gradient,) = torch.autograd.grad(world.log_density(x, level).sum(), x)
    answer = world.denoise(x.detach(), level)
    torch.testing.assert_close(answer, x.detach() + sigma**2 * gradient, atol=1e-6, rtol=0)
    picture = true_picture("front view of a red mushroom with a blue stem")
    noisy = picture + 0.05 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(world.denoise(noisy, torch.tensor([0.05])), picture, atol=0.01, rtol=0)


def test_variances_are_what_the_formulas_say(tmp_path):
    """One Gaussian of variance s^2: D = x / (1 + (sigma / s)^2) about its mean, so that all estimators are linear."""
    spread, sigma = 0.5, 3.0
    model = MixtureModel(torch.zeros(1, 3, 8, 8), std=spread)
    where = context(model, tmp_path, small=False)
    where.judge.unfinished = lambda: (torch.zeros(1, 3, 8, 8), "")
    rows = paas._variances(where, sigma)
    kept = spread**2 / (spread**2 + sigma**2)  # of the noise in D
    deviation = lambda n: (2 / ((512 // n - 1) * 192)) ** 0.5  # noqa: E731 - of a variance from so many numbers
    for r in rows:
        truth = {"Eq. 16": kept**2, "Eq. 15": (1 - kept) ** 2, "auto": 0.0, "antithetic": 0.0}[r["estimator"]]
        truth /= sigma**2 * r["n"]
        if truth:
            assert r["variance"] == pytest.approx(truth, rel=10 * deviation(r["n"])), r
            assert r["bias"] < 1.5
        else:
            assert r["variance"] < 1e-12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "LATENTS"], 'should make, e.g. --prompt "a ripe strawberry"'),
        (["--prompt", "a mushroom"], "'a mushroom' has no known truth: it names no color"),
        (["--prompt", "a strawberry"], "strawberry"),
        (["--prompt", "front view of a red cube"], "leave the direction out"),
        (["--steps", "0"], "--steps 0: it must be between 1 and"),
    ],
)
def test_what_cannot_be_tried_is_refused(arguments, said, latents, capsys, tmp_path):
    arguments = [latents if a == "LATENTS" else a for a in arguments]
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "ood", "--device", "cpu", "--output", str(tmp_path / "new"), *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_experiments_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["experiment", "nothing"])
    assert "there is no experiment 'nothing': choose ood, paas, sigma-schedule" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_with_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "paas.json").write_text("[1]")
    with pytest.raises(SystemExit):
        main(["experiment", "ood", "--small", "--device", "cpu", "--output", str(tmp_path)])
    assert "paas.json is no record of an experiment" in capsys.readouterr().err
