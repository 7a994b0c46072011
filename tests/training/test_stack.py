"""Runs that advance together are those of each alone: to the bit where that is asked for, else to rounding."""

import copy

import pytest
import torch

from sjc_fast import load_score_model
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.stack import ApartScorer, Stack, Turns, can_stack, family, fits
from sjc_fast.training.trainer import Trainer
from tests.support import pipelines
from tests.support.runs import assert_same


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "pixels", vae=False)
    return load_score_model(str(folder), torch.device("cpu"), torch.float32)


def settings(backend="cpu", **changes):
    tree = {"steps": 5, "size": 8, "guidance": 4.0, "noise_samples": 2, "field": {"resolution": 6}, "backend": backend}
    tree["losses"] = {"emptiness_weight": 10.0, "depth_weight": 1.0}
    tree["score"] = {"negative_prompt": "ugly", "antithetic": False, "estimator": "auto"}
    return merge(TrainConfig(), tree | changes)


#: What runs of a family may have of their own.
OWN = (
    {"prompt": "a cat", "seed": 1},
    {"prompt": "a dog", "seed": 2, "guidance": 7.5, "optimizer": {"lr": 0.02, "decay": "cosine"}},
    {"prompt": "a hat", "seed": 3, "steps": 8, "score": {"negative_prompt": "grim", "sigma": {"mode": "annealed"}}},
    {"prompt": "a toy", "seed": 4, "steps": 4, "losses": {"emptiness_weight": 30.0, "emptiness_start": 0.2}},
    {"prompt": "a cup", "seed": 5, "cameras": {"radius": 2.0, "fov": [30.0, 40.0]}},
)

CASES = {
    "texture": {},
    "plain background, two views": {"views": 2, "field": {"resolution": 6, "background": "random"}},
    "blended words": {"cameras": {"words": "blended"}, "optimizer": {"name": "adam"}},
    "no guidance, pairs": {"guidance": 1.0, "score": {"antithetic": True}, "noise_samples": 4},
}


def configs(case, backend="cpu"):
    base = settings(backend, **CASES[case])
    found = [merge(base, own) for own in OWN]
    if base.guidance == 1:
        found = [merge(config, {"guidance": 1.0}) for config in found]
    return found


def alone(config, model, device="cpu"):
    trainer = Trainer(config, model, device, release=False)
    for _ in trainer.remaining():
        pass
    return trainer


def together(configs, model, places, device="cpu"):
    """All of them, so many at a time: whoever ends is replaced, and at the end the stack gets smaller."""
    coming = [Trainer(config, model, device, release=False) for config in configs]
    done = []
    stack = Stack([coming.pop(0) for _ in range(places)], max(config.steps for config in configs))
    kept = stack.field.density.data_ptr()
    while True:
        stack.step()
        vacant = []
        for slot, trainer in enumerate(stack.trainers):
            if trainer.position == len(trainer.schedule):
                done.append(stack.take(slot))
                if coming:
                    stack.put(slot, coming.pop(0))
                    assert stack.field.density.data_ptr() == kept
                else:
                    vacant.append(slot)
        if vacant:
            left = [slot for slot in range(len(stack.trainers)) if slot not in vacant]
            if not left:
                return done
            stack = Stack([stack.take(slot) for slot in left], 8)
            kept = stack.field.density.data_ptr()


@pytest.mark.parametrize("case", CASES)
def test_each_to_the_bit_where_that_is_asked_for(case, model, same_bits):
    """Field, measurements and optimizer, with places that are taken anew in the middle."""
    every = configs(case)
    assert len({family(config) for config in every}) == 1
    solo = {config.prompt: alone(config, model) for config in every}
    for trainer in together(every, model, places=3):
        one = solo.pop(trainer.config.prompt)
        assert_same(trainer, one)
        assert torch.equal(trainer.log, one.log)
        mine, theirs = trainer.checkpoint(), one.checkpoint()
        assert (mine.step, mine.digest) == (theirs.step, theirs.digest)
        assert mine.optimizer.keys() == theirs.optimizer.keys()
        assert all(torch.equal(mine.optimizer[k], theirs.optimizer[k]) for k in mine.optimizer)
    assert not solo


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "backend"),
    [*((case, "cpu") for case in CASES), ("plain background, two views", "triton"), ("blended words", "triton")],
)
def test_each_to_rounding(case, backend, model):
    """With one network call for all; in Triton that is the step that a CUDA graph holds."""
    every = configs(case, backend)
    solo = {config.prompt: alone(config, model) for config in every}
    for trainer in together(every, model, places=4):
        one = solo[trainer.config.prompt]
        # As the fused step is compared with the one by autograd: Adamax's first steps turn on the sign of a gradient.
        torch.testing.assert_close(trainer.log, one.log, rtol=1e-3, atol=1e-4)
        for (name, mine), (_, theirs) in zip(
            trainer.field.named_parameters(), one.field.named_parameters(), strict=True
        ):
            moved = (mine - theirs).abs() > 1e-3
            assert float(moved.float().mean()) < 0.01, name


def test_a_network_call_for_all(model, monkeypatch):
    calls = []
    whole = type(model).denoise
    monkeypatch.setattr(
        type(model), "denoise", lambda self, x, sigma, text: calls.append(len(x)) or whole(self, x, sigma, text)
    )
    trainers = [Trainer(config, model, release=False) for config in configs("texture")]
    stack = Stack(trainers, 8)
    stack.step()
    assert calls == [5 * 2 * 2]  # objects, noised copies, with guidance and without


def test_one_that_goes_on_from_a_checkpoint(model, same_bits):
    """In a stack from the middle of one's way, and out of it before the end."""
    every = configs("texture")[:3]
    whole = [alone(config, model) for config in every]
    begun = [Trainer(config, model, release=False) for config in every]
    for steps, trainer in enumerate(begun):
        for _ in range(steps):
            trainer.step()
    stack = Stack(begun, 8)
    for _ in range(2):
        stack.step()
    middle = copy.deepcopy(stack.take(1).checkpoint())
    assert middle.step == 3
    resumed = Trainer(every[1], model, release=False)
    resumed.restore(middle)
    for trainer, one in zip((begun[1], resumed), (whole[1], whole[1]), strict=True):
        for _ in trainer.remaining():
            pass
        assert_same(trainer, one)


def test_nan_in_one_stays_in_it(model):
    trainers = [Trainer(config, model, release=False) for config in configs("texture")[:3]]
    stack = Stack(trainers, 8)
    stack.step()
    trainers[1].field.density.data.fill_(float("nan"))
    stack.step()
    stack.step()
    assert [t.is_finite() for t in trainers] == [True, False, True]
    assert [t.first_bad_step() for t in trainers] == [None, 2, None]


def test_what_cannot_step_together(model):
    base = settings()
    others = ({"size": 16}, {"views": 2}, {"noise_samples": 4}, {"guidance": 1.0}, {"field": {"resolution": 8}})
    others += ({"losses": {"depth_weight": 0.0}}, {"optimizer": {"name": "adam"}}, {"field": {"density_shift": 0.0}})
    kinds = [family(merge(base, {"prompt": "it"} | changes)) for changes in ({}, *others)]
    assert len(set(kinds)) == len(kinds)
    assert can_stack(Trainer(merge(base, {"prompt": "it"}), model, release=False))
    reference = Trainer(merge(settings("reference"), {"prompt": "it"}), model, release=False)
    assert not can_stack(reference)
    turns = Turns([reference])
    turns.step()
    assert turns.take(0).position == 1
    assert fits(reference, reference)


def test_words_are_asked_apart_only_for_the_same_bits(model, same_bits):
    trainers = [Trainer(config, model, release=False) for config in configs("texture")[:2]]
    assert isinstance(Stack(trainers, 8).scorer, ApartScorer)
    torch.use_deterministic_algorithms(False)
    assert not isinstance(Stack(trainers, 8).scorer, ApartScorer)
