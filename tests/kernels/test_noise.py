"""Philox against its published vectors, and the normals made from it."""

import torch

from sjc_fast.kernels.noise import normal, philox


def words(text):
    return [int(w, 16) for w in text.split()]


def test_known_answers():
    """The vectors of the Random123 distribution (kat_vectors, philox 4x32 10)."""
    for counter, key, expected in (
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ):
        assert philox(torch.tensor(words(counter)), tuple(words(key))).tolist() == words(expected)


def test_normals_are_normal_and_distinct():
    x = normal(3, 5, 100_000)
    assert abs(float(x.mean())) < 0.02
    assert abs(float(x.std()) - 1) < 0.01
    assert abs(float((x**4).mean()) - 3) < 0.15
    assert bool(x.isfinite().all())
    assert abs(float((x[:-1] * x[1:]).mean())) < 0.02
    assert not torch.equal(x, normal(3, 6, 100_000))
    assert not torch.equal(x, normal(4, 5, 100_000))
    assert not torch.equal(x, normal(3 + 2**32, 5, 100_000))


def test_any_prefix_and_tensor_steps_agree():
    assert torch.equal(normal(1, 2, 10), normal(1, 2, 1000)[:10])
    assert torch.equal(normal(1, torch.tensor(2), 10), normal(1, 2, 10))
