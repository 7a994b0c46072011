"""Meshes, pictures and videos against geometry that is known."""

import math
import weakref

import av
import pytest
import torch
import trimesh
from PIL import Image
from plyfile import PlyData

from sjc_fast import MixtureModel, UserError, VoxelField, orbit, render
from sjc_fast.export.mesh import choose_iso, extract_mesh, keep_large, save_mesh, simplify
from sjc_fast.export.pictures import contact_sheet, save_picture, take_pictures
from sjc_fast.export.raycast import camera_hits, render_mesh, silhouettes
from sjc_fast.export.surface import surface_of
from sjc_fast.export.video import frames_of, save_gif, save_video
from tests.support.fields import CENTER, RADIUS, WHITE, pixel_model, sphere


@pytest.fixture(scope="module")
def mesh():
    return extract_mesh(sphere(), math.log1p(math.exp(-1)))  # softplus(-1): the density where the raw value is 0


def test_mesh_lies_where_the_object_does(mesh):
    offset = torch.from_numpy(mesh.vertices.copy()).float() - CENTER
    assert float((offset.norm(dim=1) - RADIUS).abs().max()) < 0.01
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * torch.pi * RADIUS**3, rel=0.02)  # positive: faces look outwards


class Painter(MixtureModel):
    """A latent model whose decoder is known: four channels at half the size, decoded to swapped and enlarged RGB."""

    latent, upscale = True, 2

    def decode(self, features):
        rgb = (features.detach()[:, [2, 0, 1]] / 12 + 0.5).clamp(0, 1)
        return rgb.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


@pytest.mark.parametrize("texture", [None, 256])
def test_colors_of_the_surface_are_the_volumes(texture):
    """Red for larger x and blue for smaller, on the mesh's own pictures as on the volume's."""
    options = {"size": 96, "faces": 3000, "texture": texture}
    mesh, figures = surface_of(sphere(), pixel_model(), 2.5, 45.0, WHITE, **options)
    assert figures["watertight"]
    assert figures["faces"] <= 3000
    assert figures["psnr"] > 25
    assert mesh.visual.kind == ("texture" if texture else "vertex")
    cameras = orbit(torch.tensor([180.0, 0.0]), torch.zeros(2), 2.5, 45.0)
    right, left = render_mesh(mesh, cameras, 33, torch.ones(3))[:, :, 18, 16]
    assert right.tolist() == pytest.approx([1, 0, 0], abs=0.06)
    assert left.tolist() == pytest.approx([0, 0, 1], abs=0.06)


def test_colors_of_a_latent_model_go_through_its_decoder():
    field = sphere(channels=4)
    field.features.data[..., :] = torch.tensor([6.0, -6.0, -6.0, 1.0])  # a decoder that swaps channels makes it green
    field.background.data[:] = 0.0
    model = Painter(torch.zeros(1, 4, 8, 8))
    mesh, figures = surface_of(field, model, 2.5, 45.0, None, size=128, faces=1500)
    colors = mesh.visual.vertex_colors[:, :3].astype(int)
    assert colors[:, 1].min() > 190
    assert colors[:, [0, 2]].max() < 70
    assert figures["psnr"] > 22


def test_rays_meet_the_mesh_where_the_ball_is(mesh):
    camera = orbit(torch.tensor([40.0]), torch.tensor([10.0]), 2.5, 45.0)
    hits = camera_hits(mesh, camera, 33)
    origins, directions = camera.rays(33, 33)
    to_center = CENTER - origins[0]
    along = (directions[0].reshape(-1, 3) * to_center).sum(dim=-1)
    across = (to_center.norm() ** 2 - along**2).clamp_min(0).sqrt()
    truth = along - (RADIUS**2 - across**2).clamp_min(0).sqrt()
    sure = (across - RADIUS).abs() > 0.03
    assert torch.equal(torch.from_numpy(hits.face >= 0)[sure], (across < RADIUS)[sure])
    inside = across < RADIUS - 0.05
    assert float((torch.from_numpy(hits.distance).float() - truth)[inside].abs().max()) < 0.02
    assert abs(hits.weights[hits.face >= 0].sum(axis=1) - 1).max() < 1e-6


def test_views_that_cannot_see_a_point_do_not_color_it():
    """Two balls, red in front of green: where the red one hides the green one, no red gets onto the green."""
    field = sphere()
    axis = (torch.arange(48) + 0.5) * 2 / 48 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    near, far = (((x - c) ** 2 + y**2 + z**2).sqrt() for c in (-0.5, 0.4))
    field.density.data = torch.maximum(0.3 - near, 0.4 - far) * 200
    red, green = torch.tensor([6.0, -6.0, -6.0]), torch.tensor([-6.0, 6.0, -6.0])
    field.features.data = torch.where((x < -0.1)[..., None], red, green)
    mesh, _ = surface_of(field, pixel_model(), 2.5, 45.0, WHITE, size=128)
    x, colors = mesh.vertices[:, 0], mesh.visual.vertex_colors[:, :3].astype(int)
    assert len(mesh.split()) == 2
    assert colors[x > -0.1, 0].max() < 90
    assert colors[x < -0.1, 1].max() < 90


def test_the_iso_level_matches_the_silhouettes():
    field = sphere()
    iso = choose_iso(field, 2.5, 45.0)
    cameras = orbit(torch.tensor([70.0, 200.0]), torch.tensor([5.0, 30.0]), 2.5, 45.0)
    seen = silhouettes(extract_mesh(field, iso), cameras, 96)
    solid = take_pictures(field, pixel_model(), cameras, 96, WHITE)[1][:, 0] > 0.1
    assert float((seen & solid).sum() / (seen | solid).sum()) > 0.95


def test_fog_has_no_surface():
    field = VoxelField(16, 3)
    field.density.data.fill_(-6.0)
    with pytest.raises(UserError, match=r"the object is fog, .* train for more steps, or give an iso below that"):
        choose_iso(field, 2.5, 45.0)


def test_floaters_and_hollows_are_left_out():
    """A shell with a cavity and a speck beside it: one closed piece is left, and it looks outwards."""
    field = sphere()
    axis = (torch.arange(48) + 0.5) * 2 / 48 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distance = (x**2 + y**2 + z**2).sqrt()
    speck = 0.06 - ((x - 0.85) ** 2 + (y - 0.85) ** 2 + (z - 0.85) ** 2).sqrt()
    field.density.data = torch.maximum(0.15 - (distance - 0.5).abs(), speck) * 200
    whole = extract_mesh(field, math.log1p(math.exp(-1)))
    assert len(whole.split()) == 3
    kept = keep_large(whole)
    assert len(kept.split()) == 1
    assert kept.is_watertight
    assert kept.volume == pytest.approx(4 / 3 * math.pi * 0.65**3, rel=0.05)
    assert len(simplify(kept, 500).faces) <= 500


def test_mesh_closes_at_the_box(tmp_path):
    field = VoxelField(8, 4)
    field.density.data.fill_(50.0)
    mesh = extract_mesh(field, 10.0)
    assert mesh.is_watertight
    for kind in ("ply", "glb", "obj"):
        save_mesh(mesh, tmp_path / f"m.{kind}")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_other_software_reads_the_files(tmp_path, kind):
    """Trimesh and, for what it can say, plyfile; the colors are still those of the volume."""
    options = {"size": 64, "faces": 1000, "texture": None if kind == "ply" else 128}
    mesh, _ = surface_of(sphere(), pixel_model(), 2.5, 45.0, WHITE, **options)
    written = save_mesh(mesh, tmp_path / f"ball.{kind}")
    names = {"glb": ["ball.glb"], "ply": ["ball.ply"], "obj": ["ball.mtl", "ball.obj", "ball.png"]}[kind]
    assert sorted(p.name for p in tmp_path.iterdir()) == names == sorted(p.name for p in written)
    read = trimesh.load(tmp_path / f"ball.{kind}", force="mesh", process=False)
    assert len(read.faces) == len(mesh.faces)
    assert read.visual.kind == ("vertex" if kind == "ply" else "texture")
    cameras = orbit(torch.tensor([90.0, 210.0]), torch.tensor([10.0, -20.0]), 2.5, 45.0)
    mine, theirs = (render_mesh(m, cameras, 48, torch.ones(3)) for m in (mesh, read))
    assert float((mine - theirs).square().mean()) < 1e-4
    if kind == "ply":
        names = {p.name for p in PlyData.read(tmp_path / "ball.ply")["vertex"].properties}
        assert {"x", "y", "z", "nx", "ny", "nz", "red", "green", "blue"} <= names


def test_a_mesh_that_cannot_be_written(tmp_path, mesh):
    with pytest.raises(UserError, match="cannot write the mesh"):
        save_mesh(mesh, tmp_path / "nowhere" / "m.glb")


def test_nothing_above_the_iso_level():
    with pytest.raises(UserError, match=r"the density reaches .* below the iso-level 1e"):
        extract_mesh(sphere(8), 1e6)


def test_pictures_show_color_and_depth():
    model = MixtureModel(torch.zeros(1, 3, 8, 8))
    cameras = orbit(torch.tensor([90.0, 0.0]), torch.tensor([0.0, 0.0]), 2.5, 45.0)
    rgb, depth = take_pictures(sphere(), model, cameras, 33, (1.0, 1.0, 1.0))
    assert rgb.shape == (2, 3, 33, 33)
    assert bool((rgb[:, :, 0, 0] == 1).all())
    assert float(depth[:, 0, 0, 0].max()) < 1e-6
    # The camera at +z sees +x on its right: red right, blue left of the ball's middle. The front camera sees only blue.
    row = rgb[0, :, 19]
    red, blue = ((row[0] > 0.8) & (row[2] < 0.2)).nonzero(), ((row[2] > 0.8) & (row[0] < 0.2)).nonzero()
    assert float(red.float().mean()) > float(blue.float().mean()) + 4
    assert float(rgb[1, 2, 19, 17]) > 0.9
    # Nearer is brighter: seen from -x, the ball (center at x = 0.3) is farther away than a ball moved to x = -0.3.
    near = sphere()
    near.density.data = near.density.data.flip(2)
    _, nearer = take_pictures(near, model, cameras, 33, (1.0, 1.0, 1.0))
    assert float(nearer[1].max()) > float(depth[1].max()) + 0.05


def test_picture_and_video_files(tmp_path):
    rgb, depth = torch.rand(2, 3, 15, 15), torch.rand(2, 1, 5, 5)
    sheet = contact_sheet(rgb, depth)
    assert sheet.shape == (3, 30, 30)
    save_picture(sheet, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (30, 30)
        assert abs(picture.getpixel((3, 4))[0] / 255 - float(sheet[0, 4, 3])) < 0.01
    frames = [torch.full((3, 33, 35), v) for v in (0.2, 0.5, 0.8)]
    save_video(iter(frames), tmp_path / "v.mp4", 12)
    with av.open(str(tmp_path / "v.mp4")) as video:
        stream = video.streams.video[0]
        read = [frame.to_ndarray(format="rgb24").mean() / 255 for frame in video.decode(stream)]
        assert (stream.width, stream.height, float(stream.average_rate)) == (34, 32, 12)
    assert read == pytest.approx([0.2, 0.5, 0.8], abs=0.02)


@pytest.mark.parametrize("latent", [False, True])
def test_supersampled_pictures(latent):
    """Rays are averaged before they are decoded; a size that is no multiple of the decoder's is still met."""
    model = Painter(torch.zeros(1, 4, 8, 8)) if latent else pixel_model()
    field, background = sphere(channels=4 if latent else 3), None if latent else WHITE
    cameras = orbit(torch.tensor([30.0]), torch.tensor([20.0]), 2.5, 45.0)
    fine = render(field, cameras, (40 * 3, 48 * 3), skip_empty=True, background=None if latent else torch.ones(1, 3))
    wanted = model.decode(torch.nn.functional.avg_pool2d(fine.features, 3))
    size = (40 * model.upscale, 48 * model.upscale)
    rgb, depth = take_pictures(field, model, cameras, size, background, rays=3)
    torch.testing.assert_close(rgb, wanted)
    assert depth.shape == (1, 1, 40, 48)
    rgb, _ = take_pictures(field, model, cameras, (33, 51), background)
    assert rgb.shape == (1, 3, 33, 51)


def test_gif(tmp_path):
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.5, 0.5, 0.5]])
    save_gif(iter(colors[:, :, None, None].expand(-1, 3, 32, 48)), tmp_path / "v.gif", 10)
    with Image.open(tmp_path / "v.gif") as gif:
        assert (gif.size, gif.n_frames, gif.info["duration"], gif.info["loop"]) == ((48, 32), 4, 100, 0)
        for i, color in enumerate(colors):
            gif.seek(i)
            assert [v / 255 for v in gif.convert("RGB").getpixel((20, 15))] == pytest.approx(color.tolist(), abs=0.04)
    assert [p.name for p in tmp_path.iterdir()] == ["v.gif"]


@pytest.mark.parametrize("save", [save_video, save_gif])
def test_a_video_holds_one_frame_at_a_time(tmp_path, save):
    """So that memory does not grow with the number of frames."""
    alive = []

    def frames():
        for _ in range(8):
            assert sum(frame() is not None for frame in alive) <= 1
            frame = torch.rand(3, 32, 32)
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    save(frames(), tmp_path / ("v.mp4" if save is save_video else "v.gif"), 12)
    assert len(alive) == 8


def test_depth_beside_the_picture():
    cameras = orbit(torch.tensor([0.0, 90.0]), torch.zeros(2), 2.5, 45.0)
    frames = list(frames_of(sphere(), pixel_model(), cameras, (20, 30), WHITE, depth=True))
    rgb, depth = take_pictures(sphere(), pixel_model(), cameras, (20, 30), WHITE)
    assert [f.shape for f in frames] == [(3, 20, 60)] * 2
    torch.testing.assert_close(frames[1][:, :, :30], rgb[1])
    torch.testing.assert_close(frames[1][1, :, 30:], depth[1, 0])


def test_a_failing_frame_leaves_no_file(tmp_path):
    def frames():
        yield torch.zeros(3, 32, 32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_video(frames(), tmp_path / "v.mp4", 12)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot write the video"):
        save_video(iter([torch.zeros(3, 32, 32)]), tmp_path / "nowhere" / "v.mp4", 12)
