"""The configuration tree: ranges stand beside their fields, names of before are read, tables and names agree."""

import dataclasses
import typing
from pathlib import Path

import pytest

from sjc_fast.errors import UserError, name_settings_as_options
from sjc_fast.paas import ESTIMATORS, WEIGHTS
from sjc_fast.scene.directions import Direction
from sjc_fast.training.config import (
    OptimizerConfig,
    ScoreConfig,
    SigmaConfig,
    TrainConfig,
    digest,
    merge,
    range_of,
    to_dict,
)
from sjc_fast.training.optimizers import OPTIMIZERS
from sjc_fast.training.schedule import SIGMA_MODES


def leaves(kind, prefix=""):
    """Every setting: class, name, dotted name and type."""
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint, f"{prefix}{name}.")
        else:
            yield kind, name, f"{prefix}{name}", hint


def is_number(hint):
    """Whether a setting is a number, perhaps none, or several."""
    arguments = typing.get_args(hint)
    return hint in (int, float) or (Direction not in arguments and any(is_number(a) for a in arguments))


NUMBERS = [(kind, name, dotted) for kind, name, dotted, hint in leaves(TrainConfig) if is_number(hint)]


@pytest.mark.parametrize(("kind", "name", "dotted"), NUMBERS, ids=[n[2] for n in NUMBERS])
def test_every_number_has_a_range(kind, name, dotted):
    allowed = range_of(kind, name)
    assert allowed is not None
    assert allowed.low < allowed.high
    tree = value = {}
    for part in dotted.split(".")[:-1]:
        value = value.setdefault(part, {})
    current = getattr(kind(), name)
    value[name] = [float("inf")] * len(current) if isinstance(current, tuple) else float("inf")
    whole = isinstance(current, int) or typing.get_type_hints(kind)[name] == (int | None)
    value[name] = 10**12 if whole else value[name]
    with pytest.raises(UserError, match=f"^{dotted}.* it must be"):
        merge(TrainConfig(prompt="x"), tree).check()


def test_lora_weights_as_they_were_given_before():
    for given in (None, "a.safetensors", Path("a.safetensors"), ["a.safetensors"]):
        assert merge(TrainConfig(), {"lora": given}).lora == (("a.safetensors",) if given else ())
    one = merge(TrainConfig(prompt="x"), {"lora": "a.safetensors"})
    assert digest(one) != digest(TrainConfig(prompt="x"))


def test_there_are_numbers():
    assert len(NUMBERS) == 42


def test_names_and_tables_agree():
    """What the command line offers is what there is."""
    choices = lambda kind, name: set(typing.get_args(typing.get_type_hints(kind)[name]))  # noqa: E731
    assert choices(SigmaConfig, "mode") == set(SIGMA_MODES)
    assert choices(OptimizerConfig, "name") == set(OPTIMIZERS)
    assert choices(ScoreConfig, "estimator") == set(ESTIMATORS)
    assert choices(ScoreConfig, "weighting") | {"sds"} == set(WEIGHTS)  # which the estimator of that name brings


def test_settings_of_before_are_read_and_known_by_their_fingerprint():
    former = {"prompt": "x", "cameras": {"law": "directions"}, "field": {"background_colour": [0.5, 0.5, 0.5]}}
    config = merge(TrainConfig(), former)
    assert config.cameras.sampling == "directions"
    assert config.field.background_color == (0.5, 0.5, 0.5)
    assert digest(TrainConfig(prompt="x")) == "2c6b0c7dfeabe7ee"  # as the first version had it
    assert digest(merge(TrainConfig(), to_dict(config))) == digest(config)


def test_messages_name_settings_as_their_reader_knows_them():
    bad = TrainConfig(prompt="x", noise_samples=0)
    with pytest.raises(UserError, match=r"^noise_samples 0: it must be between 1 and 4096$"):
        bad.check()
    name_settings_as_options()
    try:
        with pytest.raises(UserError, match=r"^--noise-samples 0: it must"):
            bad.check()
    finally:
        name_settings_as_options(False)
