"""The hub's door, through the real client, from a small hub on this machine."""

import errno
import functools
import json
import shutil
from collections import namedtuple

import pytest
import torch
from diffusers import StableDiffusionPipeline

from benchmarks import pipelines
from sjc_fast import UserError, load_score_model
from sjc_fast.runs.settings import default_config
from sjc_fast.scores import hub
from tests.support.command import sjc
from tests.support.hub import Hub

NAME = "someone/tiny"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two revisions: the first in float32 and float16, with much that nobody needs; the second with other weights."""
    folder = tmp_path_factory.mktemp("models")
    first = pipelines.stable_diffusion(folder / "first")
    pipe = StableDiffusionPipeline.from_pretrained(first, safety_checker=None, requires_safety_checker=False)
    pipe.to(torch.float16).save_pretrained(first, variant="fp16")
    pipe.to(torch.float32).save_pretrained(first)
    (first / "safety_checker").mkdir()
    for unwanted in (
        "v1-5-pruned.safetensors",
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.bin.index.json",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    ):
        (first / unwanted).write_bytes(b"x" * 3_000_000)
    (first / "sjc_fast.json").write_text(json.dumps({"name": "tiny", "defaults": {"guidance": 33.0}}))
    return first, pipelines.stable_diffusion(folder / "second")


@pytest.fixture
def offered(models, tmp_path, monkeypatch):
    """The hub, with both on it, and the client sent to it with an empty cache."""
    with Hub() as served:
        served.add(NAME, models[0])
        served.add(NAME, models[1], "v2")
        served.redirect(monkeypatch, tmp_path / "cache")
        hub._sizes.cache_clear()
        yield served
    hub._sizes.cache_clear()


def answer(model):
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return model.denoise(x, torch.tensor([2.0]), model.encode(["it"]))


def test_only_what_is_needed_comes_in_the_precision_that_runs(offered, models):
    model = load_score_model(NAME, "cpu")
    torch.testing.assert_close(answer(model), answer(load_score_model(str(models[0]), "cpu")))
    files = offered.fetched()
    assert {"unet/diffusion_pytorch_model.safetensors", "vae/config.json", "sjc_fast.json"} <= files
    assert not [f for f in files if "fp16" in f or "non_ema" in f or ".bin" in f or "safety" in f or "v1-5" in f]
    assert model.name == "tiny"
    assert default_config(NAME).guidance == 33.0


def test_float16_where_the_network_runs_in_it(offered):
    model = load_score_model(NAME, "cpu", torch.float16)
    weights = {f for f in offered.fetched() if f.endswith(".safetensors")}
    assert weights == {f"{part}.fp16.safetensors" for part in FP16}
    assert model.network.dtype == torch.float16


FP16 = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")


def test_float32_where_there_is_no_float16(offered):
    load_score_model(f"{NAME}@v2", "cpu", torch.float16)
    assert "unet/diffusion_pytorch_model.safetensors" in offered.fetched()


def test_a_revision_is_another_model(offered, models):
    model = load_score_model(f"{NAME}@v2", "cpu")
    torch.testing.assert_close(answer(model), answer(load_score_model(str(models[1]), "cpu")))
    with pytest.raises(UserError, match="it has no revision 'v3'"):
        load_score_model(f"{NAME}@v3", "cpu")


def test_what_was_downloaded_works_without_the_network(offered):
    first = answer(load_score_model(NAME, "cpu"))
    offered.stop()
    hub._sizes.cache_clear()
    torch.testing.assert_close(answer(load_score_model(NAME, "cpu")), first)
    assert default_config(NAME).guidance == 33.0
    with pytest.raises(UserError, match="cannot be reached, and the model was not downloaded before"):
        load_score_model("someone/else", "cpu")


def test_a_part_of_a_download_is_not_taken_for_all_of_it(offered):
    hub.fetch(NAME, ["unet", "scheduler"], variants=hub.variants_for(""))
    offered.stop()
    hub._sizes.cache_clear()
    with pytest.raises(UserError, match="text_encoder, vae was not downloaded in whole before"):
        load_score_model(NAME, "cpu")


def test_a_download_that_breaks_off_goes_on_where_it_was(offered, models, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**16)  # what is written at once
    file = models[0] / "unet" / "diffusion_pytorch_model.safetensors"
    offered.cut = file.stat().st_size // 2
    answered = answer(load_score_model(NAME, "cpu"))  # the client tries again by itself
    torch.testing.assert_close(answered, answer(load_score_model(str(models[0]), "cpu")))
    assert offered.cut is None
    (resumed,) = [r.offset for r in offered.requests if r.offset]
    assert file.stat().st_size // 2 - 2**16 < resumed <= file.stat().st_size // 2


def test_gated_absent_and_moved_models(offered, models):
    offered.add("someone/gated", models[0])
    offered.gated.add("someone/gated")
    for name, words in (
        ("someone/gated", r"its terms must be accepted at http://.*/someone/gated; then log in with: hf auth login"),
        ("someone/nothing", r"/someone/nothing does not exist, or is private: check the id, or log in"),
        ("runwayml/stable-diffusion-v1-5", "today it is stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ):
        with pytest.raises(UserError, match=words):
            load_score_model(name, "cpu")


def test_a_proxys_page_is_not_the_hub(offered):
    offered.page = True
    with pytest.raises(UserError, match="is not the hub"):
        load_score_model(NAME, "cpu")


def test_a_hub_with_trouble_of_its_own_is_as_good_as_none(offered, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's own attempts
    offered.status = 503
    with pytest.raises(UserError, match="cannot be reached, and the model was not downloaded before"):
        load_score_model(NAME, "cpu")


def test_a_full_disk_is_met_before_the_download(offered, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(10))
    with pytest.raises(UserError, match=r"MB are needed in .*cache, and 0.1 MB are free; set HF_HOME"):
        hub.fetch(NAME, ["unet"], variants=hub.variants_for(""))
    assert not any(f.endswith(".safetensors") for f in offered.fetched())


def test_a_disk_that_becomes_full(offered, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(UserError, match="the disk is full; what is there is kept"):
        hub.fetch(NAME, ["unet"], variants=hub.variants_for(""))


def test_a_part_without_safetensors(offered, models, tmp_path):
    other = shutil.copytree(models[1], tmp_path / "other")
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    offered.add("someone/old", other)
    with pytest.raises(UserError, match="its unet has no safetensors weights"):
        load_score_model("someone/old", "cpu")


@pytest.mark.parametrize(
    ("file", "variant"),
    [
        ("diffusion_pytorch_model.safetensors", ""),
        ("model.safetensors", ""),
        ("model.fp16.safetensors", "fp16"),
        ("model-00001-of-00002.safetensors", ""),
        ("model.fp16-00001-of-00002.safetensors", "fp16"),
        ("diffusion_pytorch_model-00001-of-00002.fp16.safetensors", "fp16"),
        ("diffusion_pytorch_model.non_ema.safetensors", "non_ema"),
        ("diffusion_pytorch_model.safetensors.index.json", ""),
        ("model.safetensors.index.fp16.json", "fp16"),
        ("config.json", None),
        ("diffusion_pytorch_model.bin", None),
    ],
)
def test_variants_by_name(file, variant):
    assert hub.variant_of(file) == variant


def test_which_variant_is_read():
    files = [f"unet/diffusion_pytorch_model{v}.safetensors" for v in ("", ".fp16", ".bf16", ".non_ema")]
    for dtype, wanted in (("torch.float16", "fp16"), ("torch.bfloat16", "bf16"), ("torch.float32", "")):
        assert hub.choose_variant(files, hub.variants_for(dtype)) == wanted
    assert hub.choose_variant(files[2:], hub.variants_for("torch.float32")) == "bf16"
    assert hub.choose_variant(files[3:], hub.variants_for("torch.float32")) is None


def test_what_is_no_id_is_not_a_proxys_fault(offered):
    with pytest.raises(UserError, match="neither a folder that exists nor an id of the hub"):
        hub.small_files("./no/such/folder")


@pytest.mark.slow
def test_the_command_downloads_beforehand_and_says_how_much(offered, tmp_path):
    """In processes of their own, by the environment alone; the second without the hub."""
    environment = {"HF_ENDPOINT": offered.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    ask = functools.partial(sjc, cwd=tmp_path, env=environment)
    done = ask("models", "--download", NAME)
    assert done.returncode == 0, done.stderr
    assert "MB to download" in done.stdout
    assert "sjc-fast train --model someone/tiny" in done.stdout
    offered.stop()
    small = (
        "--steps",
        "1",
        "--size",
        "8",
        "--field.resolution",
        "6",
        "--log.turntable-frames",
        "2",
        "--log.turntable-size",
        "32",
    )
    done = ask("train", "--prompt", "it", "--model", NAME, "--output", "run", "--device", "cpu", *small)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "field.safetensors").exists() or list((tmp_path / "run").iterdir())
