"""Learned words (textual inversion), and weights in fewer bits."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

from benchmarks import pipelines
from sjc_fast import UserError, load_score_model
from sjc_fast.cli.doctor import _model
from sjc_fast.scores.load import embedded_folder
from sjc_fast.scores.sizes import measure_model
from tests.support import families, flow_families

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pipelines.stable_diffusion(tmp_path_factory.mktemp("models") / "tiny")


def vectors(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 3])
def test_a_learned_word_is_read_as_the_pipeline_reads_it(folder, tmp_path, count):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    width = pipe.text_encoder.config.hidden_size
    save_file({"<toy>": vectors(count, width)}, tmp_path / "toy.safetensors")
    pipe.load_textual_inversion(tmp_path / "toy.safetensors")
    plain, model = (load_score_model(str(folder), CPU, embeddings=e) for e in ((), [tmp_path / "toy.safetensors"]))
    truth = pipe.encode_prompt("a <toy>", CPU, 1, False)[0]
    torch.testing.assert_close(model.encode(["a <toy>"]), truth, rtol=1e-5, atol=1e-5)
    assert float((plain.encode(["a <toy>"]) - truth).abs().max()) > 1e-2
    torch.testing.assert_close(model.encode(["a toy"]), plain.encode(["a toy"]))


@torch.no_grad()
def test_both_encoders_of_xl_learn_it(tmp_path):
    xl = families.stable_diffusion_xl(tmp_path / "xl")
    pipe = StableDiffusionXLPipeline.from_pretrained(xl)
    width = pipe.text_encoder.config.hidden_size
    tensors = {"clip_l": vectors(2, width), "clip_g": vectors(2, width, 1)}
    save_file(tensors, tmp_path / "toy.safetensors")
    for part, encoder, words in (
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        pipe.load_textual_inversion({"toy": tensors[part]}, text_encoder=encoder, tokenizer=words)
    model = load_score_model(str(xl), CPU, embeddings=[tmp_path / "toy.safetensors"])
    states, _, pooled, _ = pipe.encode_prompt("a toy", device=CPU, do_classifier_free_guidance=False)
    condition = model.encode(["a toy"])
    torch.testing.assert_close(condition[:, :-1], states, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(condition[:, -1, :20], pooled, rtol=1e-5, atol=1e-5)


def test_embeddings_that_cannot_be(folder, tmp_path):
    def refused(path, message, model=folder):
        with pytest.raises(UserError, match=message):
            load_score_model(str(model), CPU, embeddings=[path])

    path = tmp_path / "toy.safetensors"
    refused(path, r"give a \.safetensors file that exists")
    path.write_bytes(b"not one")
    refused(path, "embeddings .*header too small")
    save_file({"<toy>": vectors(1, 5)}, path)
    refused(path, "its embeddings have 5 numbers, and the text_encoder reads")
    save_file({"a": vectors(1, 5), "b": vectors(1, 5)}, path)
    refused(path, "no embeddings of one word")
    save_file({"<toy>": vectors(1, 32)}, path)
    refused(path, "has no text encoder that takes any", flow_families.flux(tmp_path / "flux"))


@torch.no_grad()
def test_weights_in_eight_bits(tmp_path):
    """Every answer is that of weights which were rounded to eight bits."""
    folder = flow_families.stable_diffusion_3(tmp_path / "sd3")
    plain, narrow = load_score_model(str(folder), CPU), load_score_model(str(folder), CPU, quantize="fp8")
    kept = sum(p.numel() * p.element_size() for p in narrow.network.parameters())
    assert plain.capturable
    assert not narrow.capturable  # each call gets new memory
    assert kept < 0.6 * sum(p.numel() * p.element_size() for p in plain.network.parameters())
    rounded = [name for name, p in narrow.network.named_parameters() if p.dtype == torch.float8_e4m3fn]
    assert rounded
    for name in rounded:
        weight = plain.network.get_parameter(name)
        weight.data = weight.to(torch.float8_e4m3fn).float()
    x, sigma = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([2.0])
    words = plain.encode(["it"])
    torch.testing.assert_close(narrow.denoise(x, sigma, words), plain.denoise(x, sigma, words), rtol=1e-4, atol=1e-5)


def test_quantization_that_cannot_be(folder, monkeypatch, tmp_path):
    for scheme, message in (("nf4", "it needs a CUDA device; fp8 works anywhere"), ("five", "choose one of none, nf4")):
        with pytest.raises(UserError, match=message):
            load_score_model(str(folder), CPU, quantize=scheme)
    with pytest.raises(UserError, match="bitsandbytes is not installed"):
        load_score_model(str(folder), "cuda", quantize="int8")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    with pytest.raises(UserError, match="LoRA weights cannot be merged into it"):
        load_score_model(str(folder), "cuda", quantize="int8", lora=tmp_path / "a.safetensors")


def test_sizes_of_every_kind(folder, tmp_path, capsys):
    """Parameters are those of the networks; operations of a call are counted without weights."""
    made = [folder, families.pixart_sigma(tmp_path / "pixart"), families.deepfloyd(tmp_path / "if")]
    made += [
        getattr(flow_families, name)(tmp_path / name) for name in ("stable_diffusion_3", "flux", "sana", "z_image")
    ]
    made += [families.stable_diffusion_xl(tmp_path / "xl")]
    for path in made:
        found, model = measure_model(str(path)), load_score_model(str(path), CPU)
        part = model.adapter.network
        assert found.parameters[part] == sum(p.numel() for p in model.network.parameters())
        assert found.parameters["text_encoder"] == sum(
            p.numel() for p in model._text.networks["text_encoder"].parameters()
        )
        assert (found.channels, found.side) == (model.channels, model.size)
        assert found.flops > 2 * found.parameters[part]  # a multiplication and an addition a weight, at least once
    assert measure_model(str(embedded_folder())).flops > 0
    lines = dict(_model(str(folder)))
    assert lines["a call of the network"].endswith("TFLOP an input; guidance doubles it")


def test_a_model_that_cannot_be_counted(tmp_path):
    broken = pipelines.stable_diffusion(tmp_path / "broken")
    (broken / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "block_out_channels": [3]}')
    with pytest.raises(UserError, match="cannot be counted"):
        measure_model(str(broken))
