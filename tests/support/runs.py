"""Runs in memory, compared."""

import torch


def assert_same(a, b):
    """Two trainers have the same field, to the bit."""
    for (name, x), (_, y) in zip(a.field.state_dict().items(), b.field.state_dict().items(), strict=True):
        assert torch.equal(x, y), name
