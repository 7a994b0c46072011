"""`sjc-fast models`: what can be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..errors import UserError
from ..scores import hub
from ..scores.assembly import needed_parts
from ..scores.convert import convert_mvdream
from ..scores.families import ADAPTERS, adapter_of
from ..scores.load import EMBEDDED, STABLE_DIFFUSION, embedded_folder, model_folder
from ..scores.loading import FolderSettings, PartLoader
from . import parse


@dataclass
class ModelsOptions:
    """What to do beside listing."""

    download: str | None = None
    """Download a hub id (or id@revision) beforehand; says first how large it is."""
    precision: Literal["fp16", "fp32"] = "fp16" if torch.cuda.is_available() else "fp32"
    """Of what is downloaded; default what this machine would use."""
    convert: Path | None = None
    """Make a model folder of this checkpoint of MVDream, a .safetensors or .pt file."""
    base: str = hub.STABLE_DIFFUSION_2
    """With --convert: where its text encoder, VAE and noise table come from, Stable Diffusion 2.1."""
    output: Path = Path("mvdream")
    """With --convert: the folder."""


def main(arguments: list[str]) -> None:
    """Print the list."""
    options = parse(ModelsOptions, arguments, "models")
    if options.download is not None:
        download(options.download, hub.variants_for(f"torch.float{options.precision[2:]}"))
        return
    if options.convert is not None:
        convert_mvdream(options.convert, options.base, options.output)
        print(f'in {options.output}; use it with: sjc-fast train --model {options.output} --prompt "..."')
        return
    settings = FolderSettings.read(embedded_folder())
    size = sum(f.stat().st_size for f in embedded_folder().rglob("*") if f.is_file()) / 2**20
    words = settings.vocabulary
    print(f"{EMBEDDED}: embedded, {size:.1f} MB, runs anywhere, no download")
    if words:
        print(f"  objects  {', '.join(words.objects)}")
        print(f"  colors   {', '.join(words.colors)}")
        print(f"  parts    {', '.join(f'{part} ({name})' for name, part in words.parts.items())}")
        print('  example  "a red mushroom with a blue stem"')
    print(f"{STABLE_DIFFUSION}: Stable Diffusion 1.5 from the Hugging Face hub (4 GB; needs a GPU to be useful)")
    print("OWNER/NAME, OWNER/NAME@REVISION: any other model on the hub of one of these kinds:")
    print(f"  {', '.join(ADAPTERS)}")
    print("FOLDER: such a model in a local folder, in diffusers format")
    print("FILE.safetensors: a single file of Stable Diffusion 1.x, 2.x or XL")


def download(source: str, variants: tuple[str, ...]) -> None:
    """Bring a model here, as training would.

    Raises:
        UserError: there is no such model, or it cannot be had.
    """
    if model_folder(source) is not None:
        raise UserError(f"--download {source}: it is here already")
    loader = PartLoader(source)
    parts = needed_parts(adapter_of(source, loader.index), loader.index)
    wanted = hub.plan(source, parts, variants)
    if wanted:
        left = hub.size_in_words(hub.missing_bytes(wanted))
        print(f"{source}: {hub.size_in_words(wanted.bytes)} in {len(wanted.sizes)} files; {left} to download")
    folder = hub.fetch(source, parts, variants)
    print(f'in {folder}; use it with: sjc-fast train --model {source} --prompt "..."')
