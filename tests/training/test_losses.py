"""Emptiness schedule and center depth."""

import math

import pytest
import torch

from sjc_fast.training.losses import center_depth_loss, emptiness_weights, guarded_negative_log


def test_emptiness_weights_change_exactly_where_the_fraction_says():
    assert emptiness_weights(4, 10.0, 0.5, 20.0).tolist() == [10, 10, 200, 200]
    assert emptiness_weights(5, 10.0, 0.5, 20.0).tolist() == [10, 10, 10, 200, 200]
    assert emptiness_weights(3, 1.0, 1.0, 9.0).tolist() == [1, 1, 1]


def test_center_depth_value_and_sign():
    depth = torch.full((2, 64, 64), 5.0)
    depth[:, 7:57, 7:57] = 3.0  # the central 50 of 64
    assert float(center_depth_loss(depth)) == pytest.approx(-math.log(2.0), rel=1e-5)
    nearer = depth.clone()
    nearer[:, 20:40, 20:40] = 1.0
    assert float(center_depth_loss(nearer)) < float(center_depth_loss(depth))


def test_center_depth_gradient_pulls_the_center_nearer_even_from_behind():
    depth = torch.full((1, 64, 64), 3.0)
    depth[:, 7:57, 7:57] = 9.0  # the wrong way round: log of a negative number, were it not guarded
    depth.requires_grad_()
    loss = center_depth_loss(depth)
    loss.backward()
    assert bool(loss.isfinite())
    assert bool((depth.grad[0, 30, 30] > 0) & (depth.grad[0, 0, 0] < 0))


def test_guard_is_continuous_in_value_and_slope():
    u = torch.tensor([0.01 - 1e-5, 0.01 + 1e-5], requires_grad=True)
    value = guarded_negative_log(u)
    value.sum().backward()
    assert float((value[0] - value[1]).detach()) == pytest.approx(2e-3, rel=0.01)
    # The logarithm's own slope above the floor; float32 has 0.01 + 1e-5 to six digits.
    torch.testing.assert_close(u.grad, torch.tensor([-100.0, -1 / (0.01 + 1e-5)]), rtol=1e-5, atol=0)
    assert float(guarded_negative_log(torch.tensor(0.5))) == pytest.approx(-math.log(0.5))


def test_impossible_windows():
    for window in (0.0, 1.0):
        with pytest.raises(ValueError, match="no center or no border"):
            center_depth_loss(torch.zeros(1, 8, 8), window)
