"""The fused march against the reference in float64 and the authors' numbers; interpreted where there is no GPU."""

import math
from typing import NamedTuple

import pytest
import torch

from sjc_fast import UserError
from sjc_fast.kernels import bricks, contract
from sjc_fast.kernels import march as module
from sjc_fast.kernels.bricks import brick_maximum
from sjc_fast.kernels.contract import Gradients, Quadrature, Saved, Scene, Upstream
from sjc_fast.kernels.march import kernels, launch, march, march_accumulate, march_forward, march_gradients, march_skip
from sjc_fast.kernels.march.launch import split
from sjc_fast.rendering import checks, choose_backend, reference, render
from sjc_fast.rendering.checks import (
    DEVICE,
    UNEVEN,
    assert_matches,
    doubled,
    make_cameras,
    make_field,
    make_wall,
    relative_rmse,
    run,
)
from sjc_fast.rendering.fused import scene_of
from sjc_fast.rendering.reference import sample_grid
from sjc_fast.scene.cameras import Cameras, orbit, ring
from sjc_fast.scene.field import VoxelField
from tests.support import golden

pytestmark = pytest.mark.usefixtures("poison")


class Code(NamedTuple):
    """Whose march is tested: Triton's, interpreted where there is no GPU, or the compiled C++ code."""

    backend: str
    device: torch.device


@pytest.fixture(params=["triton", "cpu"])
def code(request, monkeypatch):
    if request.param == "triton":
        yield Code("triton", DEVICE)
        return
    # Under PyTorch's deterministic algorithms, what the C++ code allocates is NaN until it is written.
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield Code("cpu", torch.device("cpu"))
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["render_blob", "render_inside"])
def test_the_authors_numbers(code, name):
    data = golden.load(name)
    field, size = golden.field_of(data).to(code.device), int(data["hw"][0])
    out = render(field, golden.camera_of(data["c2w"], data["K"], size).to(code.device), size, backend=code.backend)
    golden.assert_outputs(out, data)
    golden.assert_gradients(field, out, data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "camera", "channels", "plain"),
    [
        ("random", "outside", 4, False),
        ("random", "inside", 3, False),
        ("random", "inside", 4, True),
        ("solid", "outside", 3, True),
        ("solid", "inside", 4, False),
        ("fog", "outside", 4, True),
        ("random", "inside", 1, False),
        ("solid", "inside", 6, True),
        ("fog", "inside", 16, False),
        ("random", "inside", 32, False),
    ],
)
def test_against_float64(code, kind, camera, channels, plain):
    field = make_field(kind, channels=channels, box=UNEVEN).to(code.device)
    cameras = make_cameras(camera).to(code.device)
    background = (
        torch.linspace(-0.5, 0.5, len(cameras) * channels, device=code.device).reshape(-1, channels) if plain else None
    )
    truth_field, truth_cameras, truth_background = doubled(field, cameras, background)
    mine = run(field, cameras, (9, 13), code.backend, background)
    truth = run(truth_field, truth_cameras, (9, 13), "reference", truth_background)
    assert_matches(mine, truth)


@pytest.mark.parametrize("step_ratio", [0.13, 1.0, 3.7])
def test_gradients_where_rays_cross_few_cells_a_step_or_many(code, step_ratio):
    """From the eight corners of space: rays go up and down every axis, and leave cells by faces, edges and corners."""
    field = make_field("random", channels=4, box=UNEVEN).to(code.device)
    azimuth = torch.tensor([45.0, 135.0, 225.0, 315.0]).repeat(2)
    cameras = orbit(azimuth, torch.tensor([35.0, -35.0]).repeat_interleave(4), 2.3, 60.0).to(code.device)
    truth_field, truth_cameras, _ = doubled(field, cameras)
    mine = run(field, cameras, 6, code.backend, step_ratio=step_ratio)
    assert_matches(mine, run(truth_field, truth_cameras, 6, "reference", step_ratio=step_ratio))


@pytest.mark.parametrize("kind", ["empty", "opaque"])
def test_extreme_scenes_against_float64(code, kind):
    field, cameras = make_field(kind, box=UNEVEN).to(code.device), make_cameras("outside")[:1].to(code.device)
    truth_field, truth_cameras, _ = doubled(field, cameras)
    assert_matches(run(field, cameras, 12, code.backend), run(truth_field, truth_cameras, 12, "reference"))


@pytest.mark.parametrize("shape", [(14, 1, 16), (1, 13, 15), (16, 12, 1), (1, 1, 1), (2, 2, 2)], ids=str)
def test_thin_grids_with_something_else_around_them(code, shape):
    """Rays along a layer one voxel thick; what lies beside the grid in memory is NaN, and is not read."""
    around = torch.full((8, 8, 8 * 12 * 12), float("nan"), device=code.device)
    half = torch.tensor([0.06 if side == 1 < max(shape) else 1.0 for side in reversed(shape)])
    field = make_field("random", shape, box=torch.stack([-half, half])).to(code.device)
    for name in ("density", "features"):
        tensor = getattr(field, name)
        inside = around[0 if name == "density" else 4].reshape(-1)[1000 : 1000 + tensor.numel()].view(tensor.shape)
        inside.copy_(tensor.detach())
        tensor.data = inside
    for azimuth in (0.0, 90.0):
        camera = orbit(torch.tensor([azimuth]), torch.tensor([0.0]), 2.0, 50.0).to(code.device)
        plain = torch.zeros(1, 4, device=code.device)  # a ray along an axis lies on the texture's seam, or at its pole
        truth_field, truth_camera, truth_plain = doubled(field, camera, plain)
        truth = run(truth_field, truth_camera, (5, 7), "reference", truth_plain)
        assert_matches(run(field, camera, (5, 7), code.backend, plain), truth)


@pytest.mark.parametrize("channel", range(4))
@pytest.mark.parametrize("activation", ["raw", "sigmoid"])
def test_each_channel_has_its_gradient(code, channel, activation):
    _compare_gradient_of(channel, make_field("solid"), activation, code)


@pytest.mark.parametrize(
    ("channels", "channel", "activation"), [(5, 4, "raw"), (5, 4, "sigmoid"), (12, 6, "sigmoid"), (32, 31, "raw")]
)
def test_each_group_of_channels_has_its_gradient(code, channels, channel, activation):
    _compare_gradient_of(channel, make_field("solid", channels=channels), activation, code)


def _compare_gradient_of(channel, field, activation, code):
    field, cameras = field.to(code.device), make_cameras("outside")[:1].to(code.device)
    field.activation = activation
    found = []
    for backend in (code.backend, "reference"):
        out = render(field, cameras, 8, backend=backend)
        (gradient,) = torch.autograd.grad(out.features[:, channel].sum(), field.features)
        found.append(gradient)
    assert bool((found[0][..., channel] != 0).any())
    others = [c for c in range(field.channels) if c != channel]
    assert not bool((found[0][..., others] != 0).any())
    assert relative_rmse(*found) < 1e-5


@pytest.mark.parametrize("parameter", ["density", "features", "density_scale"])
def test_what_is_not_a_number_shows(code, parameter):
    """A broken field does not look like empty space."""
    field, cameras = make_field("fog").to(code.device), make_cameras("outside")[:1].to(code.device)
    getattr(field, parameter).data.fill_(float("nan"))
    with torch.no_grad():
        features = render(field, cameras, 6, backend=code.backend).features
        truth = render(field, cameras, 6, backend="reference").features
    assert bool(truth.isnan().any())
    assert torch.equal(features.isnan(), truth.isnan())


@pytest.mark.parametrize("camera", ["edge-on", "away"])
def test_rays_along_faces_and_rays_that_miss(code, camera):
    """In a plane of the box a ray's entry is 0/0: it counts as a miss, as in the reference in the same precision."""
    field, cameras = make_field("random").to(code.device), make_cameras(camera).to(code.device)
    plain = torch.zeros(1, 4, device=code.device)  # such rays lie on the seam of the texture
    mine, theirs = (run(field, cameras, 7, backend, plain) for backend in (code.backend, "reference"))
    assert_matches(mine, theirs)
    if camera == "away":
        assert bool((mine.outputs[1] == 10).all())
        assert bool((mine.outputs[2] == 0).all())
    else:
        assert bool((mine.outputs[2][0, 3] == 0).all())
        assert bool((mine.outputs[2][0, 5] > 0).any())


@pytest.mark.slow
@pytest.mark.parametrize("plan", [(1, 1), (16, 4), (32, 8)], ids=str)
def test_lanes_and_segments_change_nothing_but_rounding(monkeypatch, plan):
    field, cameras = make_field("random").to(DEVICE), make_cameras("outside")[:1].to(DEVICE)
    usual = run(field, cameras, (8, 11), "triton")
    monkeypatch.setattr(launch, "split", lambda _rays: plan)
    other = run(field, cameras, (8, 11), "triton")
    assert_matches(other, usual, value=5e-6, gradient=5e-6)


def test_the_kernels_constants_are_the_references():
    for name in ("GATE", "EARLY_STOP", "FAR_DEPTH"):
        assert getattr(kernels, name).value == getattr(reference, name)


def test_split_fills_the_device(monkeypatch):
    monkeypatch.setattr(launch, "INTERPRETING", False)
    assert split(64 * 64) == (16, 16)
    assert split(8 * 64 * 64) == (2, 2)
    assert split(512 * 512) == (1, 1)
    assert split(1) == (32, 32)


def test_a_batch_is_its_views(code):
    field, cameras = make_field("random").to(code.device), make_cameras("outside").to(code.device)
    with torch.no_grad():
        together = render(field, cameras, (9, 13), backend=code.backend)
        for v in range(3):
            alone = render(field, cameras[v : v + 1], (9, 13), backend=code.backend)
            for a, b in zip(together, alone, strict=True):
                torch.testing.assert_close(a[v], b[0], rtol=1e-5, atol=2e-6)


def test_slots_that_are_given_scale_emptiness(code):
    field, cameras = make_field("random").to(code.device), make_cameras("outside").to(code.device)
    with torch.no_grad():
        own = render(field, cameras, 8, backend=code.backend).emptiness
        fewer = render(
            field, cameras, 8, backend=code.backend, slots=torch.tensor([5, 10, 20], device=code.device)
        ).emptiness
        reference = render(
            field, cameras, 8, slots=torch.tensor([5, 10, 20], device=code.device), backend="reference"
        ).emptiness
    torch.testing.assert_close(fewer, reference)
    assert not torch.equal(own, fewer)


def test_hidden_voxels_get_exactly_no_gradient_and_do_not_move(code):
    field, hidden = make_wall()
    field, camera = field.to(code.device), orbit(torch.tensor([0.0]), torch.tensor([0.0]), 6.0, 10.0).to(code.device)
    before = field.density.detach().clone()
    out = render(field, camera, 8, backend=code.backend)
    (out.features.square().sum() + out.depth.sum() + 1e4 * out.emptiness.sum()).backward()
    assert float(out.opacity.min()) > 1 - 1e-5
    assert bool((field.density.grad[:, :, hidden] == 0).all())
    assert bool((field.features.grad[:, :, hidden] == 0).all())
    assert bool((field.density.grad[:, :, 4:6] != 0).any())
    torch.optim.Adamax([field.density], lr=0.05).step()
    assert torch.equal(field.density[:, :, hidden], before[:, :, hidden])


def uniform(code, thickness, step):
    """Space of one density (raw 0, as outside the grid), in which every sample is equally thick."""
    shift = thickness / step + math.log(-math.expm1(-thickness / step))
    return VoxelField(8, 4, density_shift=shift, generator=torch.Generator().manual_seed(0)).to(code.device)


@pytest.mark.parametrize("side", [-1, 1])
def test_both_sides_of_the_gate(code, side):
    """Just above a weight of 1e-4 features show, just below they do not."""
    camera = Cameras(orbit(torch.tensor([0.0]), torch.tensor([0.0]), 0.47, 10.0).c2w, torch.tensor([10.0])).to(
        code.device
    )
    # 11.8 samples lie along a ray: whether there is another does not hang on rounding.
    field = uniform(code, 1e-4 * (1 + side * 0.02), 0.125)
    field.features.data.fill_(1e3)
    plain = torch.zeros(1, 4, device=code.device)
    with torch.no_grad():
        mine = render(field, camera, 5, backend=code.backend, background=plain).features
        truth = render(field, camera, 5, backend="reference", background=plain).features
    torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-4)
    assert bool((mine > 0.5).all()) == (side > 0)
    assert bool((mine == 0).all()) == (side < 0)


def test_both_sides_of_the_early_stop(code):
    """T falls just below 1e-6 after 4 samples, or stays just above: gradients end where the reference's end."""
    camera = Cameras(orbit(torch.tensor([0.0]), torch.tensor([0.0]), 0.87, 1.0).c2w, torch.tensor([1.0])).to(
        code.device
    )
    ends = []
    for side in (-1, 1):
        field = uniform(code, 13.815511 / 4 * (1 + side * 1e-4), 0.125)
        reached = []
        for backend in (code.backend, "reference"):
            field.zero_grad(set_to_none=True)
            render(field, camera, 3, backend=backend).opacity.sum().backward()
            reached.append((field.density.grad != 0).any(dim=0).any(dim=0))
        assert torch.equal(*reached)
        ends.append(int(reached[0].sum()))
    assert ends[0] > ends[1] > 0


@pytest.mark.parametrize(
    ("kind", "padded", "channels"),
    [
        (torch.float16, True, 3),
        (torch.float16, False, 3),
        (torch.float16, False, 4),
        (torch.bfloat16, True, 3),
        (torch.float16, True, 6),
    ],
)
def test_half_precision_copies_are_read_and_masters_get_the_gradient(code, kind, padded, channels):
    field, cameras = make_field("solid", channels=channels).to(code.device), make_cameras("inside").to(code.device)
    options = {"height": 8, "width": 8, "step": field.step_size(), "backend": code.backend}
    width = -(-channels // 4) * 4 if padded else channels
    wide = torch.full((*field.density.shape, width), float("nan"), dtype=kind, device=code.device)
    wide[..., :channels] = field.features.detach()
    copies = (field.density.detach().to(kind), wide)
    twin = make_field("solid", channels=channels).to(code.device)
    twin.density.data, twin.features.data = copies[0].float(), wide[..., :channels].float().contiguous()
    results = []
    for f, c in ((field, copies), (twin, None)):
        out = march(scene_of(f, cameras), **options, copies=c)
        sum(x.square().sum() for x in out).backward()
        results.append([*out, f.density.grad, f.features.grad])
        assert f.density.grad.dtype == f.features.grad.dtype == torch.float32
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [4, 5])
def test_deterministic_gradients_do_not_depend_on_the_order_of_summation(channels):
    field, cameras = make_field("random", channels=channels).to(DEVICE), make_cameras("outside")[:2].to(DEVICE)
    order = [1, 0]
    shuffled = Cameras(cameras.c2w[order], cameras.fov[order])
    generator = torch.Generator().manual_seed(3)
    up = torch.randn(2, channels, 9, 9, generator=generator).to(DEVICE)
    leaves = (field.density, field.features, field.background, field.density_scale)

    def gradients(cameras, up, deterministic):
        options = {
            "height": 9,
            "width": 9,
            "step": field.step_size(),
            "deterministic": deterministic,
            "backend": "triton",
        }
        out = march(scene_of(field, cameras), **options)
        return torch.autograd.grad((out.features * up).sum() + out.depth.sum() + 1e4 * out.emptiness.sum(), leaves)

    fixed, again = gradients(cameras, up, True), gradients(shuffled, up[order], True)
    for a, b in zip(fixed, again, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(fixed, gradients(cameras, up, False), strict=True):
        assert relative_rmse(a, b) < 1e-5


def test_render_is_deterministic_where_torch_is_told_to_be(monkeypatch):
    field, cameras = make_field("random").to(DEVICE), make_cameras("inside").to(DEVICE)
    asked = []
    monkeypatch.setattr(module, "_march", lambda *a: asked.append(a[-2]) or [torch.zeros(1)] * 4)
    render(field, cameras, 4, backend="triton")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    render(field, cameras, 4, backend="triton")
    assert asked == [False, True]


def test_a_brick_bounds_every_value_in_it(code):
    grid = torch.randn(17, 8, 23, generator=torch.Generator().manual_seed(0)).to(code.device) - 2  # so padding counts
    maxima = brick_maximum(grid, backend=code.backend)
    assert maxima.shape == (3, 2, 3)
    points = torch.rand(20000, 3, generator=torch.Generator().manual_seed(1)).to(code.device) * 2 - 1
    value = sample_grid(grid[None], points)[0]
    sides = torch.tensor([23, 8, 17], device=code.device)
    cell = (((points + 1) * sides - 1) / 2).floor().long()
    x, y, z = ((cell + 1) // 8).unbind(1)
    slack = maxima[z, y, x] - value
    assert float(slack.min()) > -1e-5
    for b in torch.cartesian_prod(*[torch.arange(n) for n in maxima.shape]).tolist():
        parts = [slice(max(0, 8 * i - 1), 8 * i + 8) for i in b]
        edge = any(i == 0 or 8 * i + 8 > n for i, n in zip(b, grid.shape, strict=True))
        most = float(grid[tuple(parts)].max()) if grid[tuple(parts)].numel() else 0.0
        assert float(maxima[tuple(b)]) == (max(most, 0.0) if edge else most)


@pytest.mark.slow
@pytest.mark.parametrize("camera", ["outside", "inside"])
def test_skipping_changes_less_than_it_says(code, camera):
    field, cameras = (
        make_field("solid", (20, 17, 23), box=UNEVEN).to(code.device),
        make_cameras(camera)[:1].to(code.device),
    )
    with torch.no_grad():
        usual = render(field, cameras, 16, backend=code.backend)
        skipped = render(field, cameras, 16, backend=code.backend, skip_empty=True)
        options = {"height": 16, "width": 16, "step": field.step_size(), "backend": code.backend}
        maxima = brick_maximum(field.density, backend=code.backend)
        unskipped = march_skip(scene_of(field, cameras), maxima, **options, skip_below=0.0)
    samples = 2 * (20 + 17 + 23)
    assert float((usual.opacity - skipped.opacity).abs().max()) < 1e-5 * samples
    assert float((usual.features - skipped.features).abs().max()) < 1e-3
    for a, b in zip(usual, unskipped, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_skipping_does_skip(code):
    """Bricks that claim to be empty are believed: nothing in them is read."""
    field, cameras = make_field("solid", (20, 17, 23)).to(code.device), make_cameras("outside")[:1].to(code.device)
    claimed = torch.full_like(brick_maximum(field.density.detach(), backend=code.backend), -100.0)
    options = {"height": 8, "width": 8, "step": field.step_size(), "backend": code.backend}
    out = march_skip(scene_of(field, cameras), claimed, **options, skip_below=1e-5)
    assert float(out.opacity.abs().max()) == 0
    assert not out.features.requires_grad


@pytest.mark.parametrize("channels", [3, 7])
def test_accumulating_gradients_over_two_steps(code, channels):
    """Buffers that live on, as a training step holds them, get what autograd gives, once more each time."""
    field, cameras = make_field("solid", channels=channels).to(code.device), make_cameras("inside").to(code.device)
    tensors, options = scene_of(field, cameras), {"step": field.step_size(), "sigmoid": True, "backend": code.backend}
    wide = -(-channels // 4) * 4
    out = march(tensors, height=6, width=5, **options)
    up = torch.randn(out.features.shape, generator=torch.Generator().manual_seed(2)).to(code.device)
    leaves = (field.density, field.features, field.background, field.density_scale)
    expected = torch.autograd.grad((out.features * up).sum() + 30 * out.emptiness.sum(), leaves)
    grads = Gradients(*(torch.zeros(s, device=code.device) for s in ((5, 6, 7), (5, 6, 7, wide), (4, 4, wide), ())))
    for times in (1, 2):
        rendering, saved = march_forward(tensors, height=6, width=5, **options)
        upstream = Upstream(up, emptiness=torch.full((1,), 30.0, device=code.device))
        march_accumulate(grads, tensors, saved, upstream, **options)
        texture = grads.texture.permute(2, 0, 1)[:channels]
        mine = (grads.density, grads.features[..., :channels], texture, grads.log_scale)
        for a, b in zip(mine, expected, strict=True):
            torch.testing.assert_close(a, times * b, rtol=1e-4, atol=1e-6)
    assert not rendering.features.requires_grad
    with pytest.raises(ValueError, match="buffers must be"):
        march_accumulate(Gradients(*[grads.density] * 4), tensors, saved, Upstream(up), **options)
    with pytest.raises(ValueError, match="shapes of what they belong to"):
        march_accumulate(grads, tensors, saved, Upstream(up[:, :2]), **options)
    shifted = torch.zeros(5 * 6 * 7 + 1, device=code.device)[1:].reshape(5, 6, 7)
    with pytest.raises(ValueError, match="16-byte aligned"):
        march_accumulate(grads._replace(density=shifted), tensors, saved, Upstream(up), **options)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [4, 6])
def test_every_op_passes_opcheck(code, channels):
    field, cameras = make_field("solid", channels=channels).to(code.device), make_cameras("inside").to(code.device)
    scene, quadrature = scene_of(field, cameras), Quadrature(0.7, -1.0, False, 10.0)
    plan = (1, 1) if code.backend == "cpu" else (2, 2)
    arguments = (*scene, None, None, None, 3, 5, *quadrature, *plan, False, code.backend)
    torch.library.opcheck(module._march, arguments)
    features, depth, opacity, _, *rest = module._march(*arguments)
    saved = [x.detach() for x in Saved(features, depth, opacity, *rest)]
    plain = scene.detach()
    upstream = Upstream(torch.ones_like(features), torch.ones_like(depth), None, torch.ones(1, device=code.device))
    upstream = Upstream(*(None if v is None else v.detach() for v in upstream))
    for deterministic in (False, True):
        given = (*plain, *saved, *upstream, *quadrature, *plan, deterministic, code.backend)
        torch.library.opcheck(march_gradients, given)
    grads = [torch.zeros(s, device=code.device) for s in contract.gradient_shapes((5, 6, 7), channels)]
    torch.library.opcheck(module._accumulate, (*grads, *plain, *saved, *upstream, *quadrature, *plan, code.backend))
    torch.library.opcheck(bricks._brick_maximum, (field.density.detach(), code.backend))


def stacked(channels, device, plain=False):
    """Three grids that six views show in no order, and each grid's views alone."""
    fields = [make_field("solid", channels=channels, seed=seed) for seed in range(3)]
    for i, field in enumerate(fields):
        field.density_scale.data.fill_(0.3 * i)
    cameras, asset = ring(6, 20.0, 1.5, 60.0).to(device), torch.tensor([2, 0, 1, 1, 0, 2], device=device)
    backdrop = torch.rand(6, channels, generator=torch.Generator().manual_seed(1)).to(device)
    parts = [[p.detach().to(device) for p in (f.density, f.features, f.background, f.density_scale)] for f in fields]
    alone = []
    for i, (density, features, background, log_scale) in enumerate(parts):
        own = (asset == i).nonzero()[:, 0]
        behind = backdrop[own] if plain else background
        box = fields[0].box.to(device)
        alone.append((own, Scene(density, features, behind, log_scale, cameras.c2w[own], cameras.fov[own], box)))
    together = [torch.stack(tensors) for tensors in zip(*parts, strict=True)]
    together[2] = backdrop if plain else together[2]
    return Scene(*together, cameras.c2w, cameras.fov, box, asset), alone


@pytest.mark.parametrize(("channels", "plain"), [(3, False), (4, True), (6, False)])
def test_views_of_several_grids_are_those_of_each_alone(code, channels, plain):
    """To the last bit, but for Triton's sums of gradients, which have no order; none goes to another grid."""
    scene, alone = stacked(channels, code.device, plain)
    options = {"step": 0.2, "sigmoid": channels == 3, "backend": code.backend}
    generator = torch.Generator().manual_seed(4)
    rendering, saved = march_forward(scene, height=6, width=5, **options)
    up = Upstream(*(torch.randn(x.shape, generator=generator).to(code.device) for x in rendering))
    grads = Gradients(
        *(torch.zeros(s, device=code.device) for s in contract.gradient_shapes(scene.density.shape, channels))
    )
    march_accumulate(grads, scene, saved, up, **options)
    close = {"rtol": 0, "atol": 0} if code.backend == "cpu" else {"rtol": 1e-4, "atol": 1e-5}
    for i, (own, one) in enumerate(alone):
        expected, kept = march_forward(one, height=6, width=5, **options)
        for mine, theirs in zip(rendering, expected, strict=True):
            assert torch.equal(mine[own], theirs)
        sums = Gradients(
            *(torch.zeros(s, device=code.device) for s in contract.gradient_shapes(one.density.shape, channels))
        )
        march_accumulate(sums, one, kept, Upstream(*(u[own] for u in up)), **options)
        assert bool(sums.density.any())
        for mine, theirs in zip(grads, sums, strict=True):
            torch.testing.assert_close(mine[i], theirs, **close)


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [False, True])
def test_autograd_through_several_grids(code, deterministic):
    scene, alone = stacked(4, code.device)
    options = {"height": 5, "width": 4, "step": 0.3, "backend": code.backend, "deterministic": deterministic}

    def gradients(scene):
        leaves = [scene.density, scene.features, scene.background, scene.log_scale]
        leaves = [x.clone().requires_grad_() for x in leaves]
        out = march(Scene(*leaves, *scene[4:]), **options)
        return torch.autograd.grad(out.features.square().sum() + out.emptiness.sum(), leaves)

    every = gradients(scene)
    for i, (_own, one) in enumerate(alone):
        for mine, theirs in zip(every, gradients(one), strict=True):
            torch.testing.assert_close(mine[i], theirs, rtol=1e-4, atol=1e-5)


def test_grids_that_are_no_stack(code):
    scene, _ = stacked(4, code.device)
    options = {"height": 5, "width": 4, "step": 0.3, "backend": code.backend}
    for wrong in (
        scene._replace(asset=None),
        scene._replace(asset=scene.asset.int()),
        scene._replace(asset=scene.asset[:5]),
        scene._replace(log_scale=scene.log_scale[0]),
        scene._replace(background=scene.background[0]),
        scene._replace(features=scene.features[:2]),
    ):
        with pytest.raises(ValueError, match=r"asset|one grid|background"):
            march(wrong, **options)
    if code.device.type == "cpu":
        with pytest.raises(ValueError, match="number the 3 grids"):
            march(scene._replace(asset=scene.asset + 1), **options)


@pytest.mark.slow
@pytest.mark.exact_arithmetic
def test_one_graph_under_torch_compile(code):
    field, cameras = make_field("solid").to(code.device), make_cameras("inside").to(code.device)
    options = {"height": 5, "width": 4, "step": 0.7, "backend": code.backend}

    def loss(density, features):
        out = march(scene_of(field, cameras)._replace(density=density, features=features), **options)
        return out.features.square().sum() + out.emptiness.sum()

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        results.append(torch.autograd.grad(function(field.density, field.features), [field.density, field.features]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_nothing_to_render(code):
    field, none = make_field("solid").to(code.device), Cameras(torch.zeros(0, 4, 4), torch.zeros(0)).to(code.device)
    out = march(scene_of(field, none), height=4, width=4, step=0.1, backend=code.backend)
    assert [tuple(x.shape) for x in out] == [(0, 4, 4, 4), (0, 4, 4), (0, 4, 4), (0,)]


def test_what_the_kernels_cannot_read_is_refused(code):
    field, cameras = make_field("solid").to(code.device), ring(2, 0, 2.0, 40.0).to(code.device)
    scene, options = scene_of(field, cameras), {"height": 4, "width": 4, "step": 0.1, "backend": code.backend}
    twisted = scene.features.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)
    for changes, message in (
        ({"density": scene.density[:-1]}, "not one grid of 1 to 32 channels"),
        ({"features": torch.zeros(5, 6, 7, 33, device=code.device)}, "not one grid of 1 to 32 channels"),
        ({"density": scene.density.double(), "features": scene.features.double()}, "read float32, float16"),
        ({"background": torch.zeros(3, 4, device=code.device)}, "background is"),
        ({"features": twisted}, "must be contiguous"),
        ({"c2w": scene.c2w[:, :3]}, "cameras are c2w"),
        ({"c2w": scene.c2w.double()}, "cameras and box must be float32"),
    ):
        with pytest.raises(ValueError, match=message):
            march(scene._replace(**changes), **options)
    with pytest.raises(ValueError, match="cannot be marched in steps of 0"):
        march(scene, **(options | {"step": 0.0}))
    with pytest.raises(ValueError, match="what brick_maximum returns"):
        march_skip(scene, torch.zeros(3, 3, 3, device=code.device), **options)
    with pytest.raises(ValueError, match="no back end 'vulkan': choose one of triton, cpu"):
        march(scene, **(options | {"backend": "vulkan"}))


def test_where_the_backend_runs(monkeypatch):
    assert choose_backend("auto", "cpu") == "cpu"
    assert choose_backend("auto", "cuda") == "triton"
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_backend("triton", "cuda") == "triton"
    with pytest.raises(UserError, match="it needs a CUDA device; choose auto or reference"):
        choose_backend("triton", "cpu")
    with pytest.raises(UserError, match="it renders on the CPU; choose auto or reference"):
        choose_backend("cpu", "cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert choose_backend("auto", "cuda") == "reference"
    with pytest.raises(UserError, match="Triton is not installed"):
        choose_backend("triton", "cuda")


def test_the_checks_can_fail(code):
    field, cameras = make_field("random").to(code.device), make_cameras("inside").to(code.device)
    mine, truth = run(field, cameras, 5, code.backend), run(field, cameras, 5, "reference")
    mine.gradients["density"] = mine.gradients["density"] * 1.0001
    with pytest.raises(AssertionError, match="d density"):
        checks.assert_matches(mine, truth)
