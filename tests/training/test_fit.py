"""The renderer on its own: posed photographs become a field."""

import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from sjc_fast import VoxelField
from sjc_fast.cli import main
from sjc_fast.scene.photos import load_photos, save_photos
from sjc_fast.shapes.dataset import RADIUS
from sjc_fast.shapes.photos import photograph
from sjc_fast.training.fit import FitSettings, fit_steps, measure, refine

DATA = Path(__file__).parents[1] / "data" / "photos"


def test_photographs_are_read_as_they_were_taken():
    train, test = load_photos(DATA, 128)
    assert (len(train.pictures), len(test.pictures)) == (40, 8)
    taken = photograph("mushroom", "red", 8, 96, seed=1)
    torch.testing.assert_close(test.cameras.c2w, taken.cameras.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(test.cameras.fov, taken.cameras.fov)
    torch.testing.assert_close(test.over(torch.ones(3)), taken.over(torch.ones(3)), atol=0.01, rtol=0)


def test_the_pose_is_blenders():
    """z up: a camera high above the object has a large z in the file, and a large y here."""
    table = json.loads((DATA / "transforms_test.json").read_text())
    theirs = torch.tensor([frame["transform_matrix"] for frame in table["frames"]])
    ours = load_photos(DATA, 128)[1].cameras.c2w
    torch.testing.assert_close(ours[:, 1, 3], theirs[:, 2, 3])
    torch.testing.assert_close(ours[:, 2, 3], -theirs[:, 1, 3])
    torch.testing.assert_close(ours[:, :3, 3].norm(dim=-1), torch.full((8,), RADIUS), atol=1e-4, rtol=0)
    assert bool((torch.linalg.det(ours[:, :3, :3]) > 0.99).all())


def test_shrinking_averages_colors_by_their_alpha():
    small, whole = load_photos(DATA, 48)[1], load_photos(DATA, 96)[1]
    assert small.pictures.shape == (8, 4, 48, 48)
    expected = torch.nn.functional.avg_pool2d(whole.over(torch.zeros(3)), 2)
    torch.testing.assert_close(small.over(torch.zeros(3)), expected, atol=1e-5, rtol=0)
    odd = load_photos(DATA, 50)[1].pictures  # the whole picture, whatever the size
    assert odd.shape == (8, 4, 50, 50)
    assert float(odd[:, 3].mean()) == pytest.approx(float(whole.pictures[:, 3].mean()), rel=1e-5)


def test_a_single_table_is_split(tmp_path):
    save_photos(photograph("cube", "blue", 16, 16, seed=0), tmp_path, "train")
    (tmp_path / "transforms_train.json").rename(tmp_path / "transforms.json")
    train, test = load_photos(tmp_path, 16)
    assert (len(train.pictures), len(test.pictures)) == (14, 2)


def test_refining_keeps_the_field():
    """Values of a linear field are linear on the finer grid, away from the border."""
    field = VoxelField(8, 3)
    axis = (torch.arange(8) + 0.5) / 4 - 1
    with torch.no_grad():
        field.density.copy_((axis[:, None, None] + 2 * axis[:, None] + 3 * axis).expand(8, 8, 8))
    fine = refine(field, 16)
    middle = ((torch.arange(16) + 0.5) / 8 - 1)[2:14]
    expected = middle[:, None, None] + 2 * middle[:, None] + 3 * middle
    torch.testing.assert_close(fine.density[2:14, 2:14, 2:14].detach(), expected, atol=1e-5, rtol=0)
    assert refine(fine, 16) is fine
    assert fine.features.shape == (16, 16, 16, 3)


@pytest.mark.slow
def test_the_photographs_of_a_mushroom_become_the_mushroom(tmp_path, capsys):
    """Through the command, in a quarter of its steps; what all of them reach is in docs/experiments/fit.json."""
    main(["fit", str(DATA), "--steps", "70", "--output", str(tmp_path / "run"), "--device", "cpu"])
    said = capsys.readouterr().out
    assert "8 held-out photographs: PSNR" in said
    _, test = load_photos(DATA, 128)
    psnr, views = measure(VoxelField.load(tmp_path / "run" / "field.safetensors"), test)
    assert float(psnr.mean()) >= 30
    assert f"PSNR {float(psnr.mean()):.1f} dB" in said
    assert views.shape == (8, 3, 96, 96)
    assert iio.imread(tmp_path / "run" / "held-out.png").shape == (192, 768, 3)
    main(["render", str(tmp_path / "run"), "--views", "2", "--size", "32", "--output", str(tmp_path / "v.png")])
    assert iio.imread(tmp_path / "v.png").shape == (64, 64, 3)


def test_fits_are_reproducible_and_know_their_box():
    photos = photograph("ball", "red", 4, 16, seed=0)
    settings = FitSettings(resolutions=(8, 12), steps=3, bound=1.25, backend="reference")
    one, two = (list(fit_steps(photos, settings))[-1] for _ in range(2))
    assert torch.equal(one.density, two.density)
    assert one.box[1].tolist() == [1.25] * 3
    assert one.density.shape == (12, 12, 12)
    assert len(list(fit_steps(photos, settings))) == 6


def broken(folder, change):
    shutil.copytree(DATA, folder)
    change(folder)
    return [str(folder)]


def rewrite(folder, change):
    path = folder / "transforms_train.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "transforms_train.json").write_text("{"), "is not a table of posed photographs"),
        (lambda f: rewrite(f, lambda t: t.pop("camera_angle_x")), "is not a table of posed photographs"),
        (lambda f: rewrite(f, lambda t: t["frames"][0].update(transform_matrix=[[1]])), "is not a table of posed"),
        (lambda f: (f / "train" / "r_3.png").unlink(), "cannot read the photograph"),
        (lambda f: (f / "train" / "r_3.png").write_bytes(b"no"), "cannot read the photograph"),
        (lambda f: (f / "transforms_test.json").unlink(), "there is no"),
    ],
)
def test_wrong_data(tmp_path, capsys, change, message):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *broken(tmp_path / "data", change), "--output", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "fit needs the folder of the photographs"),
        (["nowhere"], "there is no nowhere/transforms.json"),
        ([str(DATA), "--resolutions", "2"], "--resolutions: give one or more from 4 to 512"),
        ([str(DATA), "--bound", "0"], "--bound 0.0: it must be between 1e-06"),
    ],
)
def test_wrong_options(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
