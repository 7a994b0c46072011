"""Camera paths for videos."""

import json

import pytest
import torch

from sjc_fast import UserError, orbit
from sjc_fast.export.paths import load_path, spiral


def write(tmp_path, tree):
    path = tmp_path / "path.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


def directions(cameras):
    """Azimuth, elevation and distance of cameras, in degrees and world units."""
    x, y, z = cameras.c2w[:, :3, 3].double().unbind(dim=-1)
    distance = (x**2 + y**2 + z**2).sqrt()
    return torch.rad2deg(torch.atan2(z, -x)) % 360, torch.rad2deg(torch.asin(y / distance)), distance


def test_the_authors_spiral_comes_down_in_three_rounds():
    cameras = spiral(120, 1.5, 60.0)
    eye = cameras.c2w[:, :3, 3]
    assert eye[-1].tolist() == pytest.approx([1.5, 0, 0], abs=1e-6)
    assert bool((eye[1:, 1] < eye[:-1, 1]).all())
    assert float(eye[0, 1]) == pytest.approx(1.5 * 119 / 120)
    across = eye[:, [0, 2]].norm(dim=-1)
    assert float(across.min()) == pytest.approx(0.5)
    angle = torch.atan2(eye[:, 2], eye[:, 0])
    assert int(((angle[1:] - angle[:-1]) < -3).sum()) == 3 - 1 + int(abs(float(angle[-1])) < 1e-6)
    towards = -cameras.c2w[:, :3, 2]
    torch.testing.assert_close(towards, -torch.nn.functional.normalize(eye, dim=-1))


def test_keyframes_are_met_and_joined_smoothly(tmp_path):
    tree = {"keyframes": [{"azimuth": 0, "elevation": 0}, {"azimuth": 90, "radius": 3}, {"elevation": 40, "fov": 30}]}
    cameras = load_path(write(tmp_path, tree), 21, 2.0, 45.0)
    azimuth, elevation, distance = directions(cameras)
    assert (float(azimuth[0]), float(azimuth[10]), float(azimuth[20])) == pytest.approx((0, 90, 90), abs=1e-3)
    assert float(elevation[20]) == pytest.approx(40, abs=1e-3)
    assert float(distance[10]) == pytest.approx(3)
    assert (float(cameras.fov[0]), float(cameras.fov[20])) == pytest.approx((45, 30))
    assert bool((azimuth[1:11] > azimuth[:10]).all())  # no swinging back between keyframes


def test_a_loop_closes(tmp_path):
    tree = {"keyframes": [{"azimuth": a, "elevation": a / 9} for a in (0, 90, 180, 270)], "loop": True}
    cameras = load_path(write(tmp_path, tree), 40, 2.0, 45.0)
    azimuth, elevation, _ = directions(cameras)
    assert azimuth[::10].tolist() == pytest.approx([0, 90, 180, 270], abs=1e-3)
    assert elevation[::10].tolist() == pytest.approx([0, 10, 20, 30], abs=1e-3)
    step = (azimuth.roll(-1) - azimuth) % 360
    assert float(step.min()) > 2
    assert float(step.max()) < 20


def test_matrices_are_taken_as_they_are(tmp_path):
    cameras = orbit(torch.tensor([10.0, 20.0]), torch.tensor([5.0, 6.0]), 2.0, 45.0)
    read = load_path(write(tmp_path, {"c2w": cameras.c2w.tolist(), "fov": 50}), 99, 1.0, 1.0)
    torch.testing.assert_close(read.c2w, cameras.c2w)
    assert read.fov.tolist() == [50, 50]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("{", "is not JSON"),
        ([], "expected"),
        ({"keyframes": [{"azimuth": 1}]}, "at least two keyframes"),
        ({"keyframes": [{"azimut": 1}, {}]}, "unknown azimut"),
        ({"keyframes": [{"elevation": 95}, {}]}, "elevation 95 is not between"),
        ({"c2w": [[1, 2], [3, 4]]}, "list of 4 x 4 matrices"),
        ({"c2w": [[[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]}, "must be a rotation"),
    ],
)
def test_paths_that_cannot_be(tmp_path, tree, message):
    with pytest.raises(UserError, match=message):
        load_path(write(tmp_path, tree), 10, 2.0, 45.0)


def test_a_missing_path(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_path(tmp_path / "none.json", 10, 2.0, 45.0)
