"""Poses, laws and direction words."""

import math
from types import SimpleNamespace

import pytest
import torch

from sjc_fast.scene.cameras import (
    blend_directions,
    look_at,
    name_directions,
    orbit,
    ring,
    sample_directions,
    sample_sphere,
)
from sjc_fast.scene.directions import PAPER_DIRECTIONS, Direction
from sjc_fast.training.config import CameraConfig
from sjc_fast.training.schedule import draw_cameras
from sjc_fast.training.scoring import Conditions
from tests.support import golden


def test_front_camera_stands_at_minus_x_and_sees_plus_z_on_its_right():
    camera = orbit(torch.tensor([0.0]), torch.tensor([0.0]), 2.0, 90.0)
    torch.testing.assert_close(camera.c2w[0, :3, 3], torch.tensor([-2.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    _, rays = camera.rays(2, 2)
    assert bool((rays[0, ..., 0] > 0).all())  # towards the object
    assert bool((rays[0, 0, :, 1] > 0).all())  # row 0 looks up
    assert bool((rays[0, :, 1, 2] > 0).all())  # the last column looks towards +z
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(1, 2, 2))


def test_rotations_are_orthonormal_and_right_handed():
    c2w = look_at(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 2)
    r = c2w[:, :3, :3]
    # Sums of three products of float32 numbers, each right to two units in the last place of 1.
    torch.testing.assert_close(r @ r.transpose(1, 2), torch.eye(3).expand(20, 3, 3), atol=4e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(20), atol=4e-6, rtol=0)


def test_the_authors_poses_and_words():
    """Their recorded poses, through our orbit and our words."""
    data, words = golden.load("train_var_red"), golden.strings("train_var_red", "prompts")
    eye = data["c2w"][:, :3, 3]
    azimuth = torch.rad2deg(torch.atan2(eye[:, 2], -eye[:, 0]))
    elevation = torch.rad2deg(torch.asin(eye[:, 1] / eye.norm(dim=1)))
    torch.testing.assert_close(eye.norm(dim=1), torch.full((12,), 1.5).double(), atol=1e-6, rtol=0)
    mine = orbit(azimuth, elevation, 1.5, 50.0).c2w.double()
    torch.testing.assert_close(mine, data["c2w"], atol=2e-6, rtol=0)
    index = name_directions(azimuth, elevation, PAPER_DIRECTIONS)
    assert [PAPER_DIRECTIONS[i].words for i in index] == words


def test_sphere_law():
    generator = torch.Generator().manual_seed(0)
    azimuth, elevation = sample_sphere(20_000, (0.0, 180.0), generator)
    # Uniform on the sphere: the sine of the elevation is uniform, with variance 1/3.
    assert abs(float(torch.deg2rad(elevation).sin().mean())) < 0.02
    assert abs(float(torch.deg2rad(elevation).sin().var()) - 1 / 3) < 0.01
    assert float(azimuth.min()) >= 0
    assert float(azimuth.max()) < 360
    _, elevation = sample_sphere(20_000, (0.0, 100.0), generator)
    assert float(elevation.min()) >= math.degrees(math.asin(1 - 200 / 180)) - 1e-9


def test_direction_law_visits_all_equally_and_spread_zero_is_the_middle():
    directions = [Direction(f"d{i}", (i * 90.0 - 45, i * 90.0 + 45), (0.0, 40.0)) for i in range(4)]
    azimuth, elevation, index = sample_directions(40, directions, 0.0, torch.Generator().manual_seed(0))
    assert index.bincount().tolist() == [10] * 4
    torch.testing.assert_close(azimuth, (index * 90.0).double())
    assert bool((elevation == 20).all())
    azimuth, elevation, index = sample_directions(400, directions, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(name_directions(azimuth, elevation, directions), index)


def test_blended_directions_are_linear_between_their_middles():
    """Around the turn and up: whole in the middle of a patch, half and half at the border of two."""
    directions = [Direction(f"d{i}", (i * 90.0 - 45, i * 90.0 + 45), (0.0, 40.0)) for i in range(4)]
    directions += [Direction("up", (0.0, 360.0), (40.0, 80.0))]
    azimuth = torch.tensor([90.0, 315.0, 22.5, 180.0, 30.0, 180.0]).double()
    elevation = torch.tensor([20.0, 20.0, 20.0, 40.0, 60.0, 1.0]).double()
    expected = torch.tensor(
        [
            [0, 1, 0, 0, 0],
            [0.5, 0, 0, 0.5, 0],
            [0.75, 0.25, 0, 0, 0],
            [0, 0, 0.5, 0, 0.5],
            [0, 0, 0, 0, 1],
            [0, 0, 1, 0, 0],
        ]
    )
    torch.testing.assert_close(blend_directions(azimuth, elevation, directions), expected)
    narrow = [Direction("a", (0, 10), (0, 40)), Direction("b", (10, 200), (-80, 40))]
    lost = blend_directions(torch.tensor([105.0]).double(), torch.tensor([-79.999999]).double(), narrow)
    assert lost.sum() == 1


def test_blended_words_are_a_mixture_of_the_encoded_ones():
    config = CameraConfig(sampling="directions", spread=1.0, words="blended")
    *_, direction, blend = draw_cameras(50, config, torch.Generator().manual_seed(0))
    assert blend.shape == (50, len(config.directions))
    prompts = torch.randn(len(config.directions), 3, 4)
    row = SimpleNamespace(blend=blend, direction=direction)
    expected = torch.einsum("vd,dtc->vtc", blend, prompts)
    torch.testing.assert_close(Conditions(prompts, None).of(row), expected)
    *_, direction, blend = draw_cameras(50, CameraConfig(), torch.Generator().manual_seed(0))
    row = SimpleNamespace(blend=blend, direction=direction)
    assert torch.equal(Conditions(prompts, None).of(row), prompts[direction])


def test_uncovered_viewpoints_are_refused():
    with pytest.raises(ValueError, match="without a name"):
        name_directions(torch.tensor([200.0]), torch.tensor([0.0]), [Direction("front", (-90, 90), (-90, 90))])


def test_paper_fov_range():
    cameras, *_ = draw_cameras(500, CameraConfig(), torch.Generator().manual_seed(0))
    assert 40 <= float(cameras.fov.min()) < 42
    assert 68 < float(cameras.fov.max()) <= 70


def test_ring_turns_once():
    cameras = ring(4, 0, 1.0, 40.0)
    torch.testing.assert_close(cameras.c2w[1, :3, 3], torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=0)
    assert len(cameras[1:3]) == 2
