"""The reference renderer against the authors' numbers, against an independent loop, and at its edges."""

import math

import pytest
import torch

from sjc_fast import UserError
from sjc_fast.rendering import render
from sjc_fast.rendering.checks import make_wall
from sjc_fast.rendering.rays import count_slots, intersect_box, sample_slots
from sjc_fast.scene.cameras import Cameras, orbit, ring
from sjc_fast.scene.field import VoxelField
from sjc_fast.training.optimizers import parameter_groups
from tests.support import golden


@pytest.mark.parametrize("name", ["render_blob", "render_inside"])
def test_golden_rays(name):
    data = golden.load(name)
    field, size = golden.field_of(data), int(data["hw"][0])
    camera = golden.camera_of(data["c2w"], data["K"], size)
    origins, directions = camera.rays(size, size)
    # A tangent, a norm and two divisions, each right to two units in the last place of 1 (1.2e-7): 1e-6 in all.
    torch.testing.assert_close(directions.reshape(-1, 3), data["ray_d"], atol=2e-6, rtol=0)
    torch.testing.assert_close(origins.expand(size * size, 3), data["ray_o"], atol=2e-6, rtol=0)
    t_min, t_max = intersect_box(origins[0], directions.reshape(-1, 3), field.box)
    # Distances of up to 3 over components of a direction, which may be small.
    torch.testing.assert_close(t_min, data["t_min"], atol=3e-5, rtol=0)
    torch.testing.assert_close(t_max, data["t_max"], atol=3e-5, rtol=0)
    assert count_slots(camera, size, field.box, field.step_size()).item() == int(data["num_samples"])


@pytest.mark.parametrize("name", ["render_blob", "render_inside"])
def test_golden_forward_and_gradients(name):
    data = golden.load(name)
    field, size = golden.field_of(data), int(data["hw"][0])
    out = render(field, golden.camera_of(data["c2w"], data["K"], size), size, backend="reference")
    golden.assert_outputs(out, data)
    golden.assert_gradients(field, out, data)


def random_field(channels=3, activation="raw", seed=0, density=3.0):
    generator = torch.Generator().manual_seed(seed)
    box = torch.tensor([[-1.0, -0.8, -0.9], [0.7, 1.0, 1.1]])
    field = VoxelField((5, 6, 7), channels, activation=activation, box=box, generator=generator)
    field.density.data = torch.randn(5, 6, 7, generator=generator) * density
    field.density_scale.data.fill_(0.2)
    return field.double()


def trilinear(grid, xyz, box):
    """One point at a time, from the definition: voxel centers at (i + 0.5) / n, zero outside. grid is [z, y, x, C]."""
    sides = torch.tensor([grid.shape[2], grid.shape[1], grid.shape[0]])
    position = (xyz - box[0]) / (box[1] - box[0]) * sides - 0.5
    base = position.floor()
    value = torch.zeros(grid.shape[3], dtype=grid.dtype)
    for corner in range(8):
        step = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
        index = (base + step).long()
        if bool(((index >= 0) & (index < sides)).all()):
            share = torch.where(step == 1, position - base, 1 - position + base).prod()
            value = value + share * grid[index[2], index[1], index[0]]
    return value


def march_by_hand(field, camera, size, beta, plain):
    """The quadrature of the paper's code, one ray and one sample at a time; differentiable, in float64."""
    origins, directions = camera.rays(size, size)
    d = (
        0.5
        * sum(float(e) / n for e, n in zip(field.box[1] - field.box[0], reversed(field.density.shape), strict=True))
        / 3
    )
    color = (lambda f: 2 * torch.sigmoid(f) - 1) if field.activation == "sigmoid" else (lambda f: f)
    features, depths, opacities, penalty, longest = [], [], [], 0.0, 0.0
    for ray in directions[0].reshape(-1, 3):
        near, far = (field.box[0] - origins[0]) / ray, (field.box[1] - origins[0]) / ray
        t0 = max(0.0, float(torch.minimum(near, far).max()))
        t1 = float(torch.maximum(near, far).min())
        through, total, feature, depth, k = torch.ones(()).double(), 0.0, torch.zeros(field.channels).double(), 0.0, 0
        while k * d < t1 - t0:
            longest = max(longest, t1 - t0)
            t = t0 + k * d
            point = origins[0] + t * ray
            raw = trilinear(field.density[..., None], point, field.box)[0]
            thickness = d * torch.nn.functional.softplus(field.density_scale.exp() * raw + field.density_shift)
            weight = through * (1 - torch.exp(-thickness))
            if float(through) < 1e-6:
                break
            if float(weight) > 1e-4:
                feature = feature + weight * color(trilinear(field.features, point, field.box))
            total, depth = total + weight, depth + weight * t
            penalty = penalty + torch.log(1 + beta * weight)
            through = through * torch.exp(-thickness)
            k += 1
        features.append(feature + (1 - total) * plain)
        depths.append(depth + (1 - total) * 10)
        opacities.append(torch.as_tensor(total, dtype=torch.float64))
    slots = max(1, math.floor(longest / d) + 1)
    grid = lambda x: torch.stack([torch.as_tensor(v) for v in x]).reshape(size, size, -1)  # noqa: E731
    return (
        grid(features).permute(2, 0, 1),
        grid(depths)[..., 0],
        grid(opacities)[..., 0],
        penalty / (slots * size * size),
    )


@pytest.mark.parametrize(("activation", "channels", "density"), [("raw", 4, 2.0), ("sigmoid", 3, 30.0)])
def test_against_a_loop_from_the_definition(activation, channels, density):
    field = random_field(channels, activation, density=density)
    camera = orbit(torch.tensor([33.0]), torch.tensor([17.0]), 1.9, 75.0)
    camera = Cameras(camera.c2w.double(), camera.fov.double())
    plain = torch.linspace(-0.5, 0.5, channels, dtype=torch.float64)
    size, beta = 5, 7.0
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((channels, 5, 5), (5, 5), (5, 5))]

    results = []
    for own in (True, False):
        field.zero_grad(set_to_none=True)
        if own:
            out = render(field, camera, size, background=plain[None], beta=beta)  # in float64, so by the reference
            parts = (out.features[0], out.depth[0], out.opacity[0], out.emptiness[0])
        else:
            parts = march_by_hand(field, camera, size, beta, plain)
        loss = sum((a * b).sum() for a, b in zip(parts, upstream, strict=False)) + 100 * parts[3]
        loss.backward()
        gradients = (field.density.grad, field.features.grad, field.density_scale.grad)
        results.append([x.detach().clone() for x in (*parts, *gradients)])
    for mine, truth in zip(*results, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_batch_equals_single_views(backend):
    field = random_field().float()
    cameras = ring(3, 20, 2.0, 60.0)
    together = render(field, cameras, (9, 13), backend=backend)
    for v in range(3):
        alone = render(field, cameras[v : v + 1], (9, 13), backend=backend)
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[v], b[0])
    assert together.features.shape == (3, 3, 9, 13)


def test_bands_change_nothing(monkeypatch):
    field, camera = random_field().float(), ring(1, 20, 2.0, 60.0)
    whole = render(field, camera, 16, backend="reference")
    monkeypatch.setattr("sjc_fast.rendering.reference.MAX_SLOTS", 100)
    banded = render(field, camera, 16, backend="reference")
    for a, b in zip(whole, banded, strict=True):
        torch.testing.assert_close(a, b, rtol=4e-6, atol=4e-6)  # the order of sums over a ray's samples


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_ray_that_misses_is_background(backend):
    field = random_field().float()
    away = Cameras(orbit(torch.tensor([0.0]), torch.tensor([0.0]), 3.0, 20.0).c2w, torch.tensor([20.0]))
    away.c2w[:, :3, :3] *= torch.tensor([-1.0, 1.0, -1.0])  # turn around
    out = render(field, away, 4, background=torch.tensor([[0.1, 0.2, 0.3]]), backend=backend)
    assert torch.equal(out.features[0, :, 0, 0], torch.tensor([0.1, 0.2, 0.3]))
    assert bool((out.depth == 10).all())
    assert bool((out.opacity == 0).all())
    assert bool((out.emptiness == 0).all())


def test_a_ray_in_a_plane_of_the_box_counts_as_a_miss():
    origin, ray = torch.tensor([-2.0, 1.0, 0.0]), torch.tensor([[1.0, 0.0, 0.0]])
    t_min, t_max = intersect_box(origin, ray, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    assert not bool(t_min < t_max)
    assert sample_slots(t_min, t_max, 0.1).item() == 1


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_hidden_voxels_get_exactly_no_gradient(backend):
    field, hidden = make_wall()
    camera = orbit(torch.tensor([0.0]), torch.tensor([0.0]), 6.0, 10.0)
    out = render(field, camera, 8, backend=backend)
    (out.features.square().sum() + out.depth.sum() + 1e4 * out.emptiness.sum()).backward()
    assert float(out.opacity.min()) > 1 - 1e-5
    assert bool((field.density.grad[:, :, hidden] == 0).all())
    assert bool((field.features.grad[:, :, hidden] == 0).all())
    assert bool((field.density.grad[:, :, 4:6] != 0).any())


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_hidden_voxels_do_not_move(backend):
    field, hidden = make_wall()
    before = field.density.detach().clone()
    optimizer = torch.optim.Adamax(parameter_groups(field, 0.05, 1e-4))
    out = render(field, orbit(torch.tensor([0.0]), torch.tensor([0.0]), 6.0, 10.0), 8, backend=backend)
    (out.features.square().sum() + 1e4 * out.emptiness.sum()).backward()
    optimizer.step()
    assert torch.equal(field.density[:, :, hidden], before[:, :, hidden])
    assert not torch.equal(field.density, before)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_weights_never_exceed_one_and_nothing_is_nan(backend):
    for value in (-1e4, 0.0, 1e4):
        field = VoxelField(8, 4)
        field.density.data.fill_(value)
        out = render(field, ring(2, 0, 0.3, 90.0), 8, backend=backend)  # cameras inside the box
        assert float(out.opacity.max()) <= 1 + 1e-6
        assert all(bool(x.isfinite().all()) for x in out)


def test_bad_arguments():
    field, camera = VoxelField(4, 3), ring(2, 0, 2.0, 40.0)
    with pytest.raises(UserError, match="no renderer called 'vulkan'"):
        render(field, camera, 8, backend="vulkan")
    with pytest.raises(ValueError, match="at least one pixel"):
        render(field, camera, 0)
    with pytest.raises(ValueError, match="step_ratio must be positive, not 0"):
        render(field, camera, 8, step_ratio=0)
    with pytest.raises(ValueError, match=r"background must be \[2, 3\]"):
        render(field, camera, 8, background=torch.zeros(3))
