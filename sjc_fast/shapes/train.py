"""Train the embedded model from nothing: ``python -m sjc_fast.shapes.train``. Stop it at any time; it resumes."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel

from ..files import atomic
from ..tensors import read_tensors, write_tensors
from .dataset import SCENES, Pictures, load_bank
from .model import PATCH, build_scheduler, build_text_encoder, build_tokenizer, build_unet, save_model

DECISIVE = ("steps", "batch", "lr", "warmup", "ema", "seed")


@dataclass
class Recipe:
    """How the embedded model is trained."""

    steps: int = 4000
    batch: int = 64
    lr: float = 6e-4
    warmup: int = 100
    ema: float = 0.999
    seed: int = 0
    device: str = "cpu"
    work: Path = Path("runs/shapes")
    """Pre-rendered pictures and resumable checkpoints."""
    output: Path = Path(__file__).parent / "weights"
    """The finished model folder."""
    save_every: int = 250
    start: Path | None = None
    """Model folder to start from instead of random weights, to train one further."""

    def fingerprint(self) -> str:
        """What a checkpoint must agree on to be resumed."""
        return json.dumps(
            {k: getattr(self, k) for k in ("steps", "batch", "lr", "warmup", "ema", "seed")} | {"scenes": SCENES}
        )


class Captioned(nn.Module):
    """UNet and text encoder as one module: what is trained, averaged and saved together."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.unet = build_unet()
        self.text_encoder = build_text_encoder(self.tokenizer)

    def forward(self, noisy: Tensor, tick: Tensor, captions: list[str]) -> Tensor:
        words = [" ".join(w for w in c.lower().split() if w in self.tokenizer.vocab) for c in captions]
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(words, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        context = self.text_encoder(tokens.input_ids.to(noisy.device)).last_hidden_state
        return self.unet(nn.functional.pixel_unshuffle(noisy, PATCH), tick, context).sample


class Training:
    """Model, moving average and optimiser, saved and restored as one safetensors file."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model = Captioned()
        if recipe.start:
            self.model.unet = UNet2DConditionModel.from_pretrained(recipe.start / "unet", torch_dtype=torch.float32)
            self.model.text_encoder = CLIPTextModel.from_pretrained(recipe.start / "text_encoder").float()
        self.model.train().to(recipe.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.scheduler = build_scheduler()
        self.step = 0
        self.path = recipe.work / "checkpoint.safetensors"

    def save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, p in enumerate(self.model.parameters()):
            tensors |= {f"optimiser.{i}.{k}": v for k, v in self.optimiser.state[p].items()}
        metadata = {"step": str(self.step), "recipe": self.recipe.fingerprint()}
        with atomic(self.path, "the checkpoint") as partial:
            write_tensors(tensors, partial, metadata)

    def restore(self) -> None:
        if not self.path.exists():
            return
        tensors, metadata = read_tensors(self.path)
        if metadata.get("recipe") != self.recipe.fingerprint():
            raise SystemExit(f"{self.path} was made by another recipe or of other scenes: give another --work")
        self.step = int(metadata["step"])
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        self.model.load_state_dict(part("model."))
        self.average.load_state_dict(part("average."))
        for i, p in enumerate(self.model.parameters()):
            state = part(f"optimiser.{i}.")
            self.optimiser.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}

    def learning_rate(self) -> float:
        """Linear warm-up, then cosine decay to zero."""
        warm = min(1.0, (self.step + 1) / self.recipe.warmup)
        return self.recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * self.step / self.recipe.steps))

    def loss(self, pictures: Tensor, captions: list[str], generator: torch.Generator) -> Tensor:
        """Mean squared error of the velocity at uniformly drawn ticks."""
        tick = torch.randint(self.scheduler.config.num_train_timesteps, (len(pictures),), generator=generator)
        noise = torch.randn(pictures.shape, generator=generator)
        noisy = self.scheduler.add_noise(pictures, noise, tick)
        target = nn.functional.pixel_unshuffle(self.scheduler.get_velocity(pictures, noise, tick), PATCH)
        device = self.recipe.device
        predicted = self.model(noisy.to(device), tick.to(device), captions)
        return nn.functional.mse_loss(predicted, target.to(device))

    def advance(self, data: Pictures) -> float:
        """One step; every random draw comes from (seed, step), so that a resumed run sees what it would have seen."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        loss = self.loss(*data.batch(self.recipe.batch, generator), generator)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return float(loss.detach())


def train(recipe: Recipe) -> None:
    """Train to `recipe.steps`, resuming from `recipe.work`, and write the model folder to `recipe.output`."""
    data = Pictures(load_bank(recipe.work / "pictures.safetensors", print))
    run = Training(recipe)
    run.restore()
    log = recipe.work / "log.jsonl"
    bar = tqdm(total=recipe.steps, initial=run.step, unit="step", mininterval=2)
    losses: list[float] = []
    started = time.monotonic()
    while run.step < recipe.steps:
        losses.append(run.advance(data))
        bar.update()
        if run.step % recipe.save_every == 0 or run.step == recipe.steps:
            mean = sum(losses) / len(losses)
            bar.set_postfix(loss=f"{mean:.4f}")
            with log.open("a") as file:
                seconds = time.monotonic() - started
                file.write(json.dumps({"step": run.step, "loss": mean, "seconds": round(seconds, 1)}) + "\n")
            losses.clear()
            run.save()
    details = {k: getattr(recipe, k) for k in DECISIVE}
    final = copy.deepcopy(run.average)
    save_model(recipe.output, final.unet, final.text_encoder, details | {"pictures": recipe.steps * recipe.batch})
    print(f"wrote {recipe.output}")


if __name__ == "__main__":
    train(tyro.cli(Recipe))
