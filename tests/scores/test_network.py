"""Networks at speed: batches split where memory is short, LoRA weights, attention, compilation, cheap previews."""

import logging

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from sjc_fast import UserError, load_score_model
from sjc_fast.scores.previews import LINEAR_MAPS
from tests.support import pipelines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def question(model, count, prompts=("a cube",)):
    x = torch.randn(count, 4, 16, 16, generator=generator())
    sigma = torch.linspace(0.3, 5, count)
    return x, sigma, model.encode(list(prompts)).expand(count, -1, -1)


def short_of_memory(model, most):
    """Let the network fail, as it does on a full device, for more than so many inputs at once."""
    seen, whole = [], model.network.forward

    def forward(x, *args, **kwargs):
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(len(x))
        return whole(x, *args, **kwargs)

    model.network.forward = forward
    return seen


def test_a_batch_that_does_not_fit_goes_through_in_equal_parts(folder, caplog):
    model = load_score_model(str(folder), device="cpu")
    x, sigma, condition = question(model, 12)
    whole = model.denoise(x, sigma, condition)
    seen = short_of_memory(model, 5)
    with caplog.at_level(logging.WARNING):
        parts = model.denoise(x, sigma, condition)
        again = model.denoise(x, sigma, condition)
    assert seen == [4, 4, 4] * 2
    # Another batch size may be another algorithm of convolution: rounding of sums of hundreds of products.
    torch.testing.assert_close(parts, whole, atol=5e-5, rtol=1e-4)
    assert torch.equal(parts, again)
    assert [r.getMessage() for r in caplog.records] == ["memory is short: 12 inputs go through the network 4 at a time"]
    short_of_memory(model, 0)
    with pytest.raises(torch.OutOfMemoryError):
        model.denoise(x, sigma, condition)


def make_lora(folder, where):
    """LoRA weights for UNet and text encoder, as diffusers saves them, and the answers with them in place."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v"]))
    pipe.text_encoder.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"])
    )
    for network in (pipe.unet, pipe.text_encoder):
        for name, weight in network.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3, generator=generator(len(name)))
    layers = {
        "unet_lora_layers": get_peft_model_state_dict(pipe.unet),
        "text_encoder_lora_layers": get_peft_model_state_dict(pipe.text_encoder),
    }
    StableDiffusionPipeline.save_lora_weights(where, **layers)
    return pipe


def kohya(state):
    """The same weights under the names that other trainers give them."""
    renamed = {}
    for key, value in state.items():
        part, rest = key.split(".", 1)
        path, layer = rest.replace("_proj.lora_linear_layer", "_proj.lora").rsplit(".lora", 1)
        module = f"{'lora_unet' if part == 'unet' else 'lora_te_text_model'}_{path.replace('.', '_')}"
        end = "lora_down" if "A" in layer or "down" in layer else "lora_up"
        renamed[f"{module}.{end}.weight"] = value
        renamed[f"{module}.alpha"] = torch.tensor(2.0)
    return renamed


@pytest.mark.parametrize("naming", ["diffusers", "kohya"])
def test_lora_weights_are_added_to_both_networks(folder, tmp_path, naming):
    pipe = make_lora(folder, tmp_path)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    if naming == "kohya":
        from safetensors.torch import load_file

        save_file(kohya(load_file(path)), path)
    plain, model = load_score_model(str(folder), device="cpu"), load_score_model(str(folder), device="cpu", lora=path)
    tokens = pipe.tokenizer(["a cube"], padding="max_length", max_length=24, return_tensors="pt").input_ids
    with torch.no_grad():
        text = pipe.text_encoder.eval()(tokens).last_hidden_state
        x = torch.randn(2, 4, 16, 16, generator=generator())
        truth = pipe.unet.eval()(x, 500, text.expand(2, -1, -1)).sample
        torch.testing.assert_close(model.encode(["a cube"]), text, atol=1e-5, rtol=1e-4)
        mine = model.network(x, 500, text.expand(2, -1, -1)).sample
    torch.testing.assert_close(mine, truth, atol=1e-5, rtol=1e-4)
    assert float((plain.encode(["a cube"]) - text).abs().max()) > 1e-2
    assert not any("lora" in name for name, _ in model.network.named_parameters())  # merged: they cost nothing
    model.release_text_encoder()
    torch.testing.assert_close(model.encode(["a cube"]), text, atol=1e-5, rtol=1e-4)


def test_lora_files_that_cannot_be(folder, tmp_path):
    def refused(path, message):
        with pytest.raises(UserError, match=message):
            load_score_model(str(folder), device="cpu", lora=path)

    refused(tmp_path / "none.safetensors", r"give a \.safetensors file that exists")
    refused(tmp_path, r"holds 0 \.safetensors files")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not one")
    refused(damaged, "lora .*damaged")
    other = tmp_path / "other.safetensors"
    save_file({"density": torch.ones(3)}, other)
    refused(other, "it holds no LoRA weights")
    key = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight"
    save_file({key.format("A"): torch.ones(2, 999), key.format("B"): torch.ones(64, 2)}, other)
    refused(other, "does not fit the unet")
    key = "unet.nowhere.to_q.lora_{}.weight"
    save_file({key.format("A"): torch.ones(2, 64), key.format("B"): torch.ones(64, 2)}, other)
    refused(other, "does not fit the unet")


@pytest.mark.slow
@pytest.mark.exact_arithmetic
def test_a_compiled_network_answers_the_same(folder, monkeypatch):
    """Traced whole, differentiation rules and all; only the generation of C++ is left out, which takes a minute."""
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda m, **o: compile_(m, backend="aot_eager", fullgraph=True, **o)
    )
    model, plain = (load_score_model(str(folder), device="cpu", compiled=c) for c in (True, False))
    inputs = question(plain, 2)
    torch.testing.assert_close(model.denoise(*inputs), plain.denoise(*inputs), atol=1e-4, rtol=1e-4)
    assert model.network._compiled_call_impl is not None


def test_the_linear_preview_needs_no_vae(folder):
    model = load_score_model(str(folder), device="cpu")
    x = torch.randn(2, 4, 5, 5, generator=generator())
    preview = model.preview(x)
    assert model.latents.vae is None
    rows, offset = LINEAR_MAPS[0.18215]
    truth = sum(x[:, c, None] * torch.tensor(rows[c])[:, None, None] for c in range(4))
    torch.testing.assert_close(preview, (truth + torch.tensor(offset)[:, None, None]).clamp(0, 1))
