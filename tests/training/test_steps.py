"""The fused step against the one with autograd, and as a recording that is replayed without the host."""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sjc_fast import VoxelField, load_score_model
from sjc_fast.rendering.checks import DEVICE
from sjc_fast.scores.protocol import NetworkModel
from sjc_fast.training import graphs
from sjc_fast.training.checkpoint import load_checkpoint, save_checkpoint
from sjc_fast.training.config import TrainConfig, merge
from sjc_fast.training.schedule import Row, Schedule
from sjc_fast.training.scoring import Conditions, ScoreSettings, make_scorer
from sjc_fast.training.steps import AutogradStep, FusedStep, StepSettings
from sjc_fast.training.trainer import Metrics, Readout, Trainer
from tests.support import pipelines, replay
from tests.support.pipelines import StandIn
from tests.support.runs import assert_same


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "latents", "v_prediction")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "pixels", vae=False)


def settings(**changes):
    tree = {
        "prompt": "it",
        "steps": 5,
        "seed": 3,
        "size": 8,
        "guidance": 4.0,
        "noise_samples": 2,
        "field": {"resolution": 6},
        "losses": {"emptiness_weight": 10.0, "depth_weight": 1.0},
        "score": {"negative_prompt": "ugly", "antithetic": False, "estimator": "auto"},
        "optimizer": {"decay": "cosine"},
    }
    return merge(TrainConfig(), tree | changes)


CASES = {
    "latents": settings(),
    "pixels": settings(views=2, noise_samples=4, score={"antithetic": True}, optimizer={"name": "adam"}),
    "blended words, SDS": settings(
        noise_samples=1, score={"antithetic": False, "estimator": "sds"}, cameras={"words": "blended"}
    ),
    "plain background": settings(guidance=1.0, noise_samples=1, field={"resolution": 6, "background": "random"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["triton", "cpu"])
@pytest.mark.parametrize("case", CASES)
def test_the_fused_step_is_the_step_with_autograd(case, backend, request):
    """Metrics and parameters of a run, by either way; then one goes on where the other was stopped."""
    folder, config = request.getfixturevalue("latents" if case == "latents" else "pixels"), CASES[case]
    device = DEVICE if backend == "triton" else torch.device("cpu")
    model = load_score_model(str(folder), device, torch.float32)
    runs = [Trainer(merge(config, {"backend": b}), model, device) for b in ("reference", backend)]
    plain, fused = runs
    assert isinstance(plain.train_step, AutogradStep)
    assert isinstance(fused.train_step, FusedStep)
    for run in runs:
        for _ in run.remaining():
            pass
    torch.testing.assert_close(fused.log, plain.log, rtol=1e-3, atol=1e-4)
    assert bool((fused.log[:, :4] > 0).all())
    for (name, a), (_, b) in zip(fused.field.named_parameters(), plain.field.named_parameters(), strict=True):
        error = ((a - b).detach().abs() / config.optimizer.lr).flatten().sort().values
        assert float(error[: max(1, len(error) * 99 // 100)].max()) < 0.02, name  # Adamax magnifies what is near zero
        assert float(error.max()) <= 2 * config.steps, name
    one, two = (run.checkpoint() for run in runs)
    assert one.optimizer.keys() == two.optimizer.keys()
    other = Trainer(runs[0].config, model, device)
    other.restore(two._replace(digest=one.digest))
    assert torch.equal(other.field.density, fused.field.density)


def final(config, model, monkeypatch=None, stop=None, checkpoint=None):
    """A run to its end; with monkeypatch, as a recording that is replayed."""
    run = Trainer(config, model, model.device)
    if checkpoint:
        run.restore(checkpoint)
    if monkeypatch:
        monkeypatch.setattr(graphs, "capture", replay.capture)
        run.graph = run.train_step.capturable
        assert run.graph
    while run.position < (stop or config.steps):
        run.step()
    return run


@pytest.mark.slow
@pytest.mark.interpreter
def test_a_recorded_step_replays_what_the_eager_one_does(latents, monkeypatch, tmp_path):
    """To the same bits, metrics included; also when stopped, kept and taken up again."""
    config = merge(CASES["latents"], {"backend": "triton", "steps": 6})
    model = load_score_model(str(latents), device="cpu")
    eager = final(config, model)
    assert eager._replay is None
    recorded = final(config, model, monkeypatch)
    assert recorded._replay is not None
    assert_same(recorded, eager)
    assert torch.equal(recorded.log, eager.log)
    half = final(config, model, monkeypatch, stop=5)
    assert half._replay is not None
    save_checkpoint(tmp_path / "c", half.checkpoint())
    assert_same(final(config, model, monkeypatch, checkpoint=load_checkpoint(tmp_path / "c")), eager)


@pytest.mark.gpu
def test_a_captured_step_replays_what_the_eager_one_does(latents):
    """The same on a device: the sums of gradients have no fixed order there, so near, not to the bit."""
    config = merge(CASES["latents"], {"backend": "triton", "steps": 6})
    model = load_score_model(str(latents), device="cuda", dtype=torch.float32)
    runs = [Trainer(merge(config, {"graph": graph}), model, "cuda") for graph in (False, True)]
    for run in runs:
        for _ in run.remaining():
            pass
    assert runs[0]._replay is None
    assert runs[1]._replay is not None
    torch.testing.assert_close(runs[1].log, runs[0].log, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.interpreter
def test_a_step_that_asks_the_host_runs_without_a_graph(latents, monkeypatch, caplog):
    config = merge(CASES["latents"], {"backend": "triton"})
    model = load_score_model(str(latents), device="cpu")
    eager = final(config, model)
    predict = type(model).predict

    def nosy(self, batch, sigma, condition):
        return predict(self, batch, sigma, condition) if float(sigma[0]) > 0 else batch

    monkeypatch.setattr(type(model), "predict", nosy)
    run = final(config, model, monkeypatch)
    assert not run.graph
    assert "without a CUDA graph: aten::_local_scalar_dense asks the host" in caplog.text
    assert_same(run, eager)


@pytest.mark.gpu
def test_on_a_device_such_a_step_runs_without_a_graph_too(latents, monkeypatch, caplog):
    config = merge(CASES["latents"], {"backend": "triton", "steps": 6})
    model = load_score_model(str(latents), "cuda", torch.float32)
    predict = type(model).predict

    def nosy(self, batch, sigma, condition):
        return predict(self, batch, sigma, condition) if float(sigma[0]) > 0 else batch

    monkeypatch.setattr(type(model), "predict", nosy)
    run = final(config, model)
    assert run.position == 6
    assert run._replay is None
    assert run.is_finite()
    assert "without a CUDA graph" in caplog.text


class Pretended(TorchDispatchMode):
    """Every tensor of every operation is on a device without numbers, where whatever asks for one fails."""

    calls = 0

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        for x in replay.tensors((args, kwargs)):
            assert x.device.type == "meta", function
        self.calls += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
def test_no_tensor_and_no_number_of_a_step_is_the_hosts(monkeypatch):
    """With a UNet of Stable Diffusion's shape, in half precision, on a device that has shapes only."""
    config = merge(TrainConfig(), {"prompt": "it", "noise_samples": 2, "losses": {"depth_weight": 1.0}})
    monkeypatch.setattr(VoxelField, "step_size", lambda *_: 0.01)
    with torch.device("meta"):
        model = StandIn(pipelines.unet("1.5").half(), "meta", torch.float16)
        assert isinstance(model, NetworkModel)
        conditions = Conditions(torch.zeros(4, 77, 768), torch.zeros(1, 77, 768))
        settings, device = StepSettings.of(config, 64, "triton"), torch.device("meta")
        scorer = make_scorer(model, conditions, ScoreSettings.of(config), [config.seed], "triton", device)
        step = FusedStep(VoxelField(100, 4), scorer, settings)
        assert step.capturable
        shapes = {"c2w": (4, 4), "background": (3,), "blend": (0,)}
        names = ("c2w", "fov", "sigma", "score_scale", "guidance", "background", "blend")
        rows = {k: torch.zeros(9, 1, *shapes.get(k, ())) for k in names}
        rows |= {k: torch.zeros(9, 1, dtype=torch.int64) for k in ("direction", "slots")}
        rows |= {"coefficients": torch.zeros(9, 5, 1), "loss_weights": torch.zeros(9, 2)}
        rows |= {k: torch.zeros(9) for k in ("lr", "background_lr")}
        schedule = Schedule(Row(step=torch.arange(9), number=torch.arange(1, 10), **rows))
        counter = torch.zeros(1, dtype=torch.int64)
    with Pretended() as watched:
        metrics = step(schedule.at(counter))
    assert watched.calls > 500
    assert all(m.shape == () for m in metrics)


def test_half_precision_and_strong_guidance_stay_finite_and_near(latents):
    config = merge(CASES["latents"], {"backend": "triton", "guidance": 100.0, "score": {"estimator": "eq16"}})
    logs = []
    for dtype in (torch.float16, torch.float32):
        run = final(config, load_score_model(str(latents), DEVICE, dtype), stop=1)
        assert run.is_finite()
        logs.append(run.log[0])
    torch.testing.assert_close(logs[0], logs[1], rtol=0.05, atol=1e-3)


def test_metrics_arrive_in_order_and_are_the_logs():
    log = torch.arange(20.0).reshape(4, 5)
    readout = Readout(log)
    for position in (1, 2, 4):
        readout.send(position)
    log.zero_()
    found = list(readout.arrived())
    assert [at for at, _ in found] == [1, 2, 4]
    assert list(found[2][1]) == list(Metrics._fields)
    assert list(found[2][1].values()) == [15.0, 16.0, 17.0, 18.0, 19.0]
    assert list(readout.arrived(everything=True)) == []


def test_the_text_encoder_is_let_go_and_the_negative_prompt_counts(latents):
    model = load_score_model(str(latents), device="cpu")
    encoder = weakref.ref(model._text.encoder)
    negative = model.encode(["ugly"])
    run = Trainer(CASES["latents"], model)
    gc.collect()
    assert encoder() is None
    assert model.latents.vae is None
    torch.testing.assert_close(run.train_step.scorer.conditions.unconditional, negative)
    assert not torch.equal(negative, model.encode([""]))  # it is loaded again where it is wanted
