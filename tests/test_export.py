"""Meshes, pictures and videos against geometry that is known."""

import math

import av
import pytest
import torch
from PIL import Image

from sjc_fast import MixtureModel, UserError, VoxelField, orbit
from sjc_fast.export.mesh import extract_mesh, save_mesh
from sjc_fast.export.pictures import contact_sheet, save_picture, take_pictures
from sjc_fast.export.video import save_video

CENTRE, RADIUS = torch.tensor([0.3, -0.2, 0.1]), 0.5


def sphere(resolution=48, channels=3):
    """A ball off the centre, red for x above the centre's and blue below; the rest of the box is empty."""
    field = VoxelField(resolution, channels)
    axis = (torch.arange(resolution) + 0.5) * 2 / resolution - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distance = (torch.stack([x, y, z], dim=-1) - CENTRE).norm(dim=-1)
    field.density.data = (RADIUS - distance) * 200  # raw 0 at the surface
    red, blue = torch.tensor([6.0, -6.0, -6.0]), torch.tensor([-6.0, -6.0, 6.0])
    if channels == 3:
        field.features.data = torch.where((x > CENTRE[0])[..., None], red, blue)
    return field


@pytest.fixture(scope="module")
def mesh():
    return extract_mesh(sphere(), math.log1p(math.exp(-1)))  # softplus(-1): the density where the raw value is 0


def test_mesh_lies_where_the_object_does(mesh):
    offset = torch.from_numpy(mesh.vertices.copy()).float() - CENTRE
    assert float((offset.norm(dim=1) - RADIUS).abs().max()) < 0.01
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * torch.pi * RADIUS**3, rel=0.02)  # positive: faces look outwards


def test_mesh_colours_are_the_fields(mesh):
    x, colours = torch.from_numpy(mesh.vertices[:, 0].copy()), torch.from_numpy(mesh.visual.vertex_colors[:, :3].copy())
    assert bool((colours[x > CENTRE[0] + 0.06, 0] > 240).all())
    assert bool((colours[x > CENTRE[0] + 0.06, 2] < 15).all())
    assert bool((colours[x < CENTRE[0] - 0.06, 2] > 240).all())


def test_mesh_closes_at_the_box(tmp_path):
    field = VoxelField(8, 4)
    field.density.data.fill_(50.0)
    mesh = extract_mesh(field, 10.0)
    assert mesh.is_watertight
    for kind in ("ply", "glb", "obj"):
        save_mesh(mesh, tmp_path / f"m.{kind}")
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_above_the_iso_level():
    with pytest.raises(UserError, match=r"the density reaches .* below the iso-level 1e"):
        extract_mesh(sphere(8), 1e6)


def test_pictures_show_colour_and_depth():
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
    # Nearer is brighter: seen from -x, the ball (centre at x = 0.3) is farther away than a ball moved to x = -0.3.
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


def test_a_failing_frame_leaves_no_file(tmp_path):
    def frames():
        yield torch.zeros(3, 32, 32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_video(frames(), tmp_path / "v.mp4", 12)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot write the video"):
        save_video(iter([torch.zeros(3, 32, 32)]), tmp_path / "nowhere" / "v.mp4", 12)
