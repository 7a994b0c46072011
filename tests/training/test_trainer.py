"""The schedule and the step: the authors' training run, determinism, exact resuming."""

from dataclasses import fields, replace

import pytest
import torch

from sjc_fast import MixtureModel, UserError
from sjc_fast.rendering.checks import DEVICE
from sjc_fast.rendering.rays import count_slots
from sjc_fast.training import scoring
from sjc_fast.training.checkpoint import load_checkpoint, save_checkpoint
from sjc_fast.training.config import OptimizerConfig, SigmaConfig, TrainConfig, merge
from sjc_fast.training.schedule import Row, draw_sigmas, learning_rates
from sjc_fast.training.trainer import Trainer
from tests.support import golden
from tests.support.runs import assert_same


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class ClosedForm(MixtureModel):
    """GOLDEN.md's stand-in for the network: D(z, s) = (z + s^2 p) / (1 + s^2)."""

    def __init__(self, size, device="cpu"):
        super().__init__(torch.zeros(1, 4, size, size))
        self.latent = True
        y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
        self.p = torch.stack([torch.sin((k + 2) * x + k) * torch.cos((k + 1) * y) for k in range(4)]).to(device)

    def denoise(self, x, sigma, condition):
        s2 = sigma[:, None, None, None] ** 2
        return (x + s2 * self.p) / (1 + s2)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_the_authors_training_run(monkeypatch, backend):
    """12 steps of their loop, gradient for gradient: field, score, emptiness and its step, Adamax, two groups."""
    data, size, steps = golden.load("train_var_red"), 32, 12
    settings = {
        "prompt": "it",
        "steps": steps,
        "guidance": 1.0,
        "size": size,
        "backend": backend,
        "field": {"resolution": 24},
        "losses": {
            "emptiness_weight": float(data["emptiness_weight"]),
            "emptiness_start": float(data["emptiness_step"]),
            "emptiness_multiplier": float(data["emptiness_multiplier"]),
            "emptiness_beta": float(data["emptiness_scale"]),
        },
        "optimizer": {"lr": float(data["lr"])},
    }
    device = DEVICE if backend == "triton" else torch.device("cpu")
    run = Trainer(merge(TrainConfig(), settings), ClosedForm(size, device), device)
    run.field.load_state_dict(golden.field_of(data, "init_").state_dict())
    cameras = [golden.camera_of(c, k, size).to(device) for c, k in zip(data["c2w"], data["K"], strict=True)]
    noise = data["noise"].to(device)
    monkeypatch.setattr(scoring, "normal", lambda seed, step, count, device: noise[int(step)].reshape(-1))

    for i, camera in enumerate(cameras):
        row = replace(
            run.schedule[i],
            c2w=camera.c2w,
            fov=camera.fov,
            sigma=data["sigma"][i][None].to(device),
            slots=count_slots(camera, size, run.field.box, run.field.step_size()),
        )
        metrics = run.train_step(row)
        theirs = data["emptiness_losses"][i].to(device) / row.loss_weights[0]
        torch.testing.assert_close(metrics.emptiness, theirs, rtol=1e-4, atol=0)

    truth, start, lr = golden.field_of(data, "final_"), golden.field_of(data, "init_"), float(data["lr"])
    for (name, mine), (_, final), (_, first) in zip(
        run.field.named_parameters(), truth.named_parameters(), start.named_parameters(), strict=True
    ):
        error = (mine.cpu() - final).detach().abs().flatten()
        kept = error.sort().values[: error.numel() - error.numel() // 1000]
        change = (final - first).detach().square().mean().sqrt()
        assert float(kept.square().mean().sqrt() / change) < 2e-4, name
        assert float(error.max()) <= 2 * lr, name


def small_config(**changes):
    settings = {
        "prompt": "it",
        "model": "mixture",
        "steps": 6,
        "seed": 5,
        "views": 2,
        "noise_samples": 2,
        "guidance": 3.0,
        "field": {"resolution": 8, "background": "random"},
        "score": {"antithetic": True, "sigma": {"drop_largest": 2, "drop_smallest": 2}},
        "losses": {"emptiness_weight": 10.0, "depth_weight": 1.0},
    }
    return merge(TrainConfig(), settings | changes)


def small_model():
    images = torch.rand(5, 3, 12, 12, generator=generator(1)) * 2 - 1
    return MixtureModel(images, select=lambda prompt: torch.arange(5) == (len(prompt) % 5))


def final_state(config, until=None):
    run = Trainer(config, small_model())
    while run.position < (until or config.steps):
        run.step()
    return run


def test_same_seed_same_bits_and_another_seed_another_object():
    assert_same(final_state(small_config()), final_state(small_config()))
    a, b = final_state(small_config()), final_state(small_config(seed=6))
    assert not torch.equal(a.field.density, b.field.density)


def test_resume_is_exact(tmp_path):
    half = final_state(small_config(), until=3)
    save_checkpoint(tmp_path / "c", half.checkpoint())
    resumed = Trainer(small_config(), small_model())
    resumed.restore(load_checkpoint(tmp_path / "c"))
    assert resumed.position == 3
    for _ in resumed.remaining():
        pass
    assert_same(resumed, final_state(small_config()))


def test_resume_refuses_another_configuration(tmp_path):
    save_checkpoint(tmp_path / "c", final_state(small_config(), until=1).checkpoint())
    with pytest.raises(UserError, match="another configuration"):
        Trainer(small_config(guidance=4.0), small_model()).restore(load_checkpoint(tmp_path / "c"))


def test_views_are_averaged():
    """Two views of one step move the field by the mean of what each alone asks for."""

    def gradients(view):
        run = Trainer(small_config(noise_samples=1, score={"sigma": {}}), small_model())
        row = run.schedule[0]
        if view is not None:
            cut = slice(view, view + 1)
            row = Row(
                *(
                    v[cut] if v.dim() and f.name not in ("step", "loss_weights", "coefficients") else v
                    for f, v in zip(fields(Row), vars(row).values(), strict=True)
                )
            )
        run.train_step.optimize = lambda _row: torch.zeros(1)
        # The score is linear in nothing random: take the noise away, and views no longer depend on their place.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scoring, "normal", lambda seed, step, count, device: torch.zeros(count))
            run.train_step(row)
        return [p.grad for p in run.field.parameters() if p.grad is not None]

    for both, first, second in zip(gradients(None), gradients(0), gradients(1), strict=True):
        torch.testing.assert_close(both, (first + second) / 2, atol=1e-5, rtol=1e-4)


def test_schedule_columns():
    config = small_config(steps=50)
    run = Trainer(config, small_model())
    rows = run.schedule.rows
    assert len(run.schedule) == 50
    assert rows.c2w.shape == (50, 2, 4, 4)
    assert rows.sigma.shape == rows.slots.shape == rows.direction.shape == (50, 2)
    kept = run.model.sigmas[2:-2]
    assert bool(torch.isin(rows.sigma, kept).all())
    assert rows.loss_weights[:, 0].tolist() == [10.0] * 25 + [200.0] * 25
    assert torch.equal(rows.lr, torch.full((50,), 0.05, dtype=torch.float64))
    torch.testing.assert_close(rows.background_lr, torch.full((50,), 1e-4).double())
    assert float(rows.background.std()) > 0.1
    # Changing how one quantity is drawn leaves the others as they are.
    other = Trainer(small_config(steps=50, score={"sigma": {"mode": "annealed"}}), small_model()).schedule.rows
    assert torch.equal(rows.c2w, other.c2w)
    assert torch.equal(rows.background, other.background)


def test_sigma_modes():
    table = torch.logspace(-2, 1, 1000)
    draw = lambda **kw: draw_sigmas(2000, 1000, table, SigmaConfig(**kw), generator())  # noqa: E731
    ticks = draw()
    assert float(ticks.min()) >= float(table[10])
    assert float(ticks.max()) <= float(table[969])
    assert bool(torch.isin(ticks, table).all())
    wide = draw(mode="log-uniform", low=0.1, high=10.0)
    assert float(wide.log10().mean()) == pytest.approx(0, abs=0.05)
    down = draw(mode="annealed", low=0.1, high=10.0, jitter=0.0)
    assert float(down[0]) == pytest.approx(10)
    assert float(down[-1]) == pytest.approx(0.1, rel=1e-4)
    assert bool((down[2:] < down[:-2]).all())
    with pytest.raises(UserError, match="no noise level"):
        draw(low=100.0, high=200.0)


def test_learning_rates():
    rates = learning_rates(100, OptimizerConfig(lr=0.1, decay="cosine", final_lr=0.1))
    assert float(rates[0]) == pytest.approx(0.1)
    assert float(rates[-1]) == pytest.approx(0.01, rel=0.01)
    assert bool((rates.diff() < 0).all())


def test_color_backgrounds_are_refused_for_latents():
    with pytest.raises(UserError, match="works on latents"):
        Trainer(small_config(), ClosedForm(8))
