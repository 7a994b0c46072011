"""Fields on disk: ours, and the authors'."""

import pytest
import torch

from sjc_fast import UserError, VoxelField
from tests.support import golden


def test_save_and_load(tmp_path):
    field = VoxelField((3, 4, 5), 3, activation="sigmoid", density_shift=-2.5)
    field.save(tmp_path / "f.safetensors")
    back = VoxelField.load(tmp_path / "f.safetensors")
    for (name, a), (_, b) in zip(field.state_dict().items(), back.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert (back.activation, back.density_shift) == ("sigmoid", -2.5)
    assert list(tmp_path.iterdir()) == [tmp_path / "f.safetensors"]


def test_sjc_checkpoint(tmp_path):
    data = golden.load("render_blob")
    state = {k: data[k] for k in ("density", "color", "bg", "d_scale")}
    torch.save(state, tmp_path / "last.pt")
    field, truth = VoxelField.from_sjc_checkpoint(tmp_path / "last.pt"), golden.field_of(data)
    for (name, a), (_, b) in zip(field.state_dict().items(), truth.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert field.channels == 4


class Bomb:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_sjc_checkpoint_never_runs_code(tmp_path, capsys):
    torch.save({"density": Bomb()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="cannot be read"):
        VoxelField.from_sjc_checkpoint(tmp_path / "bad.pt")
    assert capsys.readouterr().out == ""


def test_wrong_files(tmp_path):
    torch.save({"density": torch.zeros(1)}, tmp_path / "part.pt")
    with pytest.raises(UserError, match="lacks color, bg, d_scale"):
        VoxelField.from_sjc_checkpoint(tmp_path / "part.pt")
    with pytest.raises(UserError, match="no checkpoint at"):
        VoxelField.from_sjc_checkpoint(tmp_path / "none.pt")
    with pytest.raises(UserError, match="no voxel field at"):
        VoxelField.load(tmp_path / "none.safetensors")
    VoxelField(4, 3).save(tmp_path / "f.safetensors")
    whole = (tmp_path / "f.safetensors").read_bytes()
    (tmp_path / "f.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        VoxelField.load(tmp_path / "f.safetensors")


def test_activations():
    field = VoxelField(2, 3, activation="sigmoid", density_shift=-1.0)
    raw = torch.tensor([-100.0, 0.0, 100.0])
    torch.testing.assert_close(field.activate_features(raw), torch.tensor([-1.0, 0.0, 1.0]))
    field.density_scale.data.fill_(0.5)
    expected = torch.log1p(torch.exp(torch.tensor(0.5).exp() * 2 - 1))
    torch.testing.assert_close(field.activate_density(torch.tensor(2.0)), expected)
    for density in (1e-3, 1.0, 500.0):
        raw = torch.tensor(field.raw_density(density))
        assert float(field.activate_density(raw)) == pytest.approx(density, rel=1e-4)
