"""Evaluation against the known scenes: how a field is judged, the exact score, and the command."""

import json
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from sjc_fast.cli import main
from sjc_fast.cli.evaluate import PROMPTS
from sjc_fast.shapes.dataset import RADIUS, direction_cameras, render_views
from sjc_fast.shapes.exact import GRAY, TINT, ExactScenes
from sjc_fast.shapes.objects import COLORS, OBJECTS
from sjc_fast.shapes.prompts import caption
from sjc_fast.shapes.truth import judge, mean, true_views
from sjc_fast.training.schedule import plain_backgrounds
from tests.support.fields import ball, solid

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results" / "evaluation.json"


@pytest.mark.slow
def test_a_ball_of_the_true_size_is_judged_by_its_color_and_a_smaller_one_by_its_silhouette():
    result = judge(ball(0.62), "a blue ball", "reference")
    assert result.iou > 0.97
    truth, coverage = true_views("a blue ball")
    flat = torch.where(coverage[:, None] > 0.5, torch.tensor(COLORS["blue"])[:, None, None], 1.0)
    expected = -10 * (flat - truth).square().mean(dim=(1, 2, 3)).log10().mean()
    assert result.psnr == pytest.approx(float(expected), abs=1.5)
    share = (coverage > 0.5).float().mean()
    assert result.psnr - result.psnr_object == pytest.approx(float(-10 * share.log10()), abs=0.5)
    assert result.facing is None
    tangent = lambda r: r / (RADIUS**2 - r**2) ** 0.5  # noqa: E731
    smaller = judge(ball(0.5), "a blue ball", "reference")
    # The ball is made of voxels: half of one is 3% of its radius, and 6% of its silhouette.
    assert smaller.iou == pytest.approx((tangent(0.5) / tangent(0.62)) ** 2, rel=0.06)


@pytest.mark.slow
def test_facing_is_told_from_front_and_back():
    """A column lit from the front, as the true snowman is, is the right way round, and the wrong one when turned."""

    def column(front):
        body = lambda p: (p[..., [0, 2]].norm(dim=-1) < 0.3) & (p[..., 1].abs() < 0.75)  # noqa: E731
        bright, dim = torch.tensor(COLORS["white"]), torch.tensor(COLORS["white"]) / 2
        return solid(body, lambda p: torch.where(p[..., :1] * front > 0, bright, dim))

    assert judge(column(-1), "a white snowman").facing
    assert not judge(column(1), "a white snowman").facing


def test_means():
    rows = [{"prompt": "a", "iou": 0.5, "facing": True}, {"prompt": "b", "iou": 0.7, "facing": None}]
    assert mean([*rows, {"prompt": "c", "iou": 0.9, "facing": False}]) == {"iou": pytest.approx(0.7), "facing": 0.5}


def test_the_background_prior_is_that_of_the_pictures():
    sample = plain_backgrounds(200_000, torch.Generator().manual_seed(0)).double() * 2 - 1
    covariance = sample.T.cov()
    assert sample.mean().abs() < 0.01
    torch.testing.assert_close(covariance, prior(), atol=2e-3, rtol=0)


def prior():
    """Covariance of the background's three channels."""
    return (GRAY - TINT) / 3 * torch.ones(3, 3, dtype=torch.float64) + TINT * torch.eye(3, dtype=torch.float64)


@pytest.mark.slow
def test_the_exact_score_is_the_posterior_mean():
    """Against Bayes' rule for the background, pixel by pixel in float64, at three noise levels."""
    model = ExactScenes(torch.ones(1), {})
    view = 9  # front left
    condition = model.encode([caption("car", "yellow", view, "pink")])
    colors = torch.tensor([COLORS["yellow"], OBJECTS["car"].second("pink"), (0.7, 0.5, 0.4)])
    clean = render_views("car", direction_cameras()[view : view + 1]).paint(*colors) * 2 - 1
    lit, clear = condition[0, :3].double(), 1 - condition[0, 3].double()
    for sigma in (0.3, 3.0, 12.0):
        x = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        precision = prior().inverse() + clear.square().sum() / sigma**2 * torch.eye(3, dtype=torch.float64)
        pull = ((x[0].double() - lit) * clear).sum(dim=(1, 2)) / sigma**2
        expected = lit + clear * torch.linalg.solve(precision, pull)[:, None, None]
        answer = model.denoise(x, torch.tensor([sigma]), condition)
        torch.testing.assert_close(answer[0].double(), expected, atol=1e-4, rtol=0)
        assert (answer - clean).square().mean() < (0.2 * min(sigma, 2)) ** 2


@pytest.mark.slow
def test_two_prompts_come_out_as_well_as_committed(tmp_path, capsys):
    """The main job, as `sjc-fast train` does it, against the known truth at unseen cameras."""
    prompts = PROMPTS[:2]
    main(["evaluate", "--prompts", *prompts, "--no-ceiling", "--device", "cpu", "--output", str(tmp_path / "e.json")])
    result, committed = (json.loads(p.read_text()) for p in (tmp_path / "e.json", COMMITTED))
    assert [row["prompt"] for row in result["model"]] == list(prompts)
    for row, reference in zip(result["model"], committed["model"], strict=False):
        assert row["iou"] > reference["iou"] - 0.02
        assert row["psnr"] > reference["psnr"] - 1.0
        assert row["facing"] == reference["facing"]
    assert result["mean"]["model"]["iou"] == pytest.approx(sum(row["iou"] for row in result["model"]) / 2)
    assert iio.imread(tmp_path / "e.png").shape == (2 * 128, 8 * 128, 3)
    said = capsys.readouterr().out
    assert all(prompt in said for prompt in prompts)
    assert str(tmp_path / "e.png") in said


@pytest.mark.slow
def test_the_ceiling_and_changed_settings_are_in_the_report(tmp_path):
    output = tmp_path / "new" / "e.json"
    changed = ["--steps", "30", "--guidance", "1.5"]
    main(["evaluate", "--prompts", "a red cube", *changed, "--device", "cpu", "--output", str(output)])
    result = json.loads(output.read_text())
    assert result["changed"] == {"steps": 30, "guidance": 1.5, "device": "cpu"}
    assert {"model", "exact"} == set(result["mean"])
    assert result["exact"][0]["iou"] > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "a mushroom"], "'a mushroom' has no known truth: it names no color"),
        (["--prompts", "a red dragon"], "knows no object"),
        (["--prompts"], "give at least one"),
        (["--prompt", "a red cube"], "leave --prompt and --resume out"),
        (["--model", "nowhere"], "no model 'nowhere'"),
        (["--output", "/dev/null/e.json"], "cannot write /dev/null/e.json"),
        (["--output", "e.png"], "the file of the figures ends in .json"),
    ],
)
def test_wrong_input_is_met_before_the_work(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_model_without_scenes_is_refused(tmp_path, capsys):
    for part in ("unet", "scheduler", "tokenizer", "text_encoder"):
        (tmp_path / part).mkdir()
    with pytest.raises(SystemExit):
        main(["evaluate", "--model", str(tmp_path)])
    assert "names no scenes whose truth is known" in capsys.readouterr().err
