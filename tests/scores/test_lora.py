"""LoRA weights for every kind of model, through diffusers' own loaders: several, with weights of their own."""

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from sjc_fast import UserError, load_score_model
from sjc_fast.scores.lora import parse_lora
from tests.support import families, flow_families

KINDS = {
    "stable_diffusion_xl": families,
    "deepfloyd": families,
    "stable_diffusion_3": flow_families,
    "flux": flow_families,
    "sana": flow_families,
    "z_image": flow_families,
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return getattr(KINDS[request.param], request.param)(tmp_path_factory.mktemp("models") / request.param)


def make_lora(folder, path, seed):
    """Random weights for queries and values of a network, as diffusers saves them; layers by their names."""
    part = "unet" if (folder / "unet").is_dir() else "transformer"
    network = DiffusionPipeline.from_pretrained(folder, safety_checker=None).components[part]
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    state = get_peft_model_state_dict(network)
    generator = torch.Generator().manual_seed(seed)
    state = {key: 0.1 * torch.randn(value.shape, generator=generator) for key, value in state.items()}
    save_file({f"{part}.{key}": value for key, value in state.items()}, path)
    names = {key.split(".lora_")[0] for key in state}
    return {name: state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"] for name in names}


def test_several_with_weights_are_merged(folder, tmp_path):
    one = make_lora(folder, tmp_path / "one.safetensors", 1)
    two = make_lora(folder, tmp_path / "two.safetensors", 2)
    given = [f"{tmp_path}/one.safetensors:0.8", tmp_path / "two.safetensors"]
    plain, model = (load_score_model(str(folder), "cpu", lora=lora) for lora in ((), given))
    assert one
    for name, change in one.items():
        before, after = (m.network.get_parameter(f"{name}.weight") for m in (plain, model))
        torch.testing.assert_close(after, before + 0.8 * change + two[name], rtol=1e-5, atol=1e-6)
    assert not any("lora" in name for name, _ in model.network.named_parameters())


def test_weights_for_another_kind_are_refused(folder, tmp_path):
    part = "transformer" if (folder / "unet").is_dir() else "unet"
    path = tmp_path / "other.safetensors"
    save_file({f"{part}.blocks.0.to_q.lora_{end}.weight": torch.ones(2, 2) for end in "AB"}, path)
    with pytest.raises(UserError, match=r"lora .*other\.safetensors: .*does not fit the"):
        load_score_model(str(folder), "cpu", lora=path)


def test_a_network_that_diffusers_cannot_add_to_is_refused(tmp_path):
    pixart = families.pixart_sigma(tmp_path / "pixart")
    with pytest.raises(UserError, match="cannot add LoRA weights to a PixArtTransformer2DModel"):
        load_score_model(str(pixart), "cpu", lora=tmp_path / "some.safetensors")


def test_paths_and_weights(tmp_path):
    assert parse_lora("a.safetensors:-0.5") == (parse_lora("a.safetensors")[0], -0.5)
    assert parse_lora("a.safetensors")[1] == 1.0
    odd = tmp_path / "style:2"
    odd.mkdir()
    assert parse_lora(odd) == (odd, 1.0)  # a path that exists is one
    for wrong in ("a.safetensors:1e9", "a.safetensors:nan"):
        with pytest.raises(UserError, match="a weight is between"):
            parse_lora(wrong)


def test_kohyas_names_of_xl(tmp_path):
    """Blocks by their places in the authors' network, as most published files have them."""
    xl = families.stable_diffusion_xl(tmp_path / "xl")
    change = make_lora(xl, tmp_path / "one.safetensors", 1)
    places = {}  # of a network of two levels, with one layer each
    for name in change:
        block, rest = name.split(".attentions.", 1)
        where = {"down_blocks.1": "input_blocks_3_1", "mid_block": "middle_block_1"}
        inside = rest.split(".", 1)
        place = where.get(block) or f"output_blocks_{inside[0]}_1"
        places[name] = f"lora_unet_{place}_{inside[1].replace('.', '_')}"
    state = load_file(tmp_path / "one.safetensors")
    renamed = {}
    for key, value in state.items():
        name, end = key.removeprefix("unet.").split(".lora_")
        renamed[f"{places[name]}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = value
        renamed[f"{places[name]}.alpha"] = torch.tensor(2.0)
    save_file(renamed, tmp_path / "kohya.safetensors")
    plain, model = (load_score_model(str(xl), "cpu", lora=lora) for lora in ((), tmp_path / "kohya.safetensors"))
    for name, value in change.items():
        before, after = (m.network.get_parameter(f"{name}.weight") for m in (plain, model))
        torch.testing.assert_close(after, before + value, rtol=1e-5, atol=1e-6)


def test_layers_without_a_place_are_told(tmp_path, caplog):
    sd3 = flow_families.stable_diffusion_3(tmp_path / "sd3")
    make_lora(sd3, tmp_path / "one.safetensors", 1)
    state = load_file(tmp_path / "one.safetensors")
    state |= {f"transformer.nowhere.to_q.lora_{end}.weight": torch.ones(2, 2) for end in "AB"}
    save_file(state, tmp_path / "more.safetensors")
    with caplog.at_level("WARNING", "sjc_fast"):
        load_score_model(str(sd3), "cpu", lora=tmp_path / "more.safetensors")
    assert [r.getMessage().split(": ")[1] for r in caplog.records] == [
        f"1 of its {len(state) // 2} layers have no place in the transformer"
    ]
