"""The experiments, small: each runs through the command and leaves its figure, numbers and text."""

import json

import imageio.v3 as iio
import pytest
import torch

from sjc_fast.cli import main
from sjc_fast.experiments import EXPERIMENTS
from sjc_fast.experiments.frame import interval, told, write_page
from sjc_fast.experiments.janus import faces
from sjc_fast.experiments.regularisers import stray
from tests.test_evaluate import ball


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_small(name, tmp_path, capsys):
    main(["experiment", name.replace("_", "-"), "--small", "--device", "cpu", "--output", str(tmp_path)])
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["experiment"] == name
    assert record["small"] is True
    assert record["numbers"]
    assert record["measured"] in " ".join(capsys.readouterr().out.split())
    picture = iio.imread(tmp_path / f"{name}.png")
    assert picture.shape[0] > 200
    assert picture[..., :3].std() > 10
    write_page(tmp_path, [name], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert f"## {name}" in page
    assert record["claim"] in page


def test_intervals():
    assert interval([3.0]) == (3.0, 0.0)
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / 3**0.5, rel=1e-3)  # Student's t with 2 degrees of freedom
    assert told([1.0, 2.0, 3.0], 1) == "2.0 ± 2.5"


def test_floaters_are_mass_outside_the_object():
    field = ball(0.62)
    clean = stray(field, "a blue ball")
    assert clean["floaters"] < 0.01
    assert clean["offset"] < 0.01
    with torch.no_grad():
        inside = (field.density > 0).sum()
        field.density[2:12, 2:12, 2:12] = 300.0  # a cube in a corner
    assert stray(field, "a blue ball")["floaters"] == pytest.approx(1000 / float(inside + 1000), rel=0.03)


def test_a_ball_has_no_more_faces_than_a_side_that_looks_like_the_front():
    assert faces(ball(0.62), "a blue ball") <= 1


def test_unknown_experiments_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["experiment", "nothing"])
    assert "there is no experiment 'nothing': choose ood, paas, sigma-schedule" in capsys.readouterr().err
