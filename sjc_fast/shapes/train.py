"""Train the embedded model from nothing: ``python -m sjc_fast.shapes.train``. Stop it at any time; it resumes.

First the text encoder learns with the layout decoder alone to draw what captions say, which is cheap; then both with
the UNet to denoise. Matrices are trained by Muon (K. Jordan et al. 2024, kellerjordan.github.io/posts/muon), the rest
by AdamW.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle
from tqdm import tqdm

from ..scores.layout import UNetWithLayout
from ..storage.files import atomic
from ..storage.tensors import read_tensors, write_tensors
from .dataset import FORMER_SCENES, SCENES, Batch, Pictures, load_bank
from .model import PATCH, build_layout, build_scheduler, build_text_encoder, build_tokenizer, build_unet, save_model

#: What decides a result, and the names under which model folders and checkpoints keep it.
DECISIVE = {
    "layout_steps": "layout_steps",
    "layout_batch": "layout_batch",
    "steps": "steps",
    "batch": "batch",
    "muon_lr": "muon",
    "adamw_lr": "adamw",
    "warmup": "warmup",
    "ema": "ema",
    "seed": "seed",
    "bf16": "half",
}


@dataclass
class Recipe:
    """How the embedded model is trained."""

    layout_steps: int = 3000
    """Of text encoder and layout decoder alone."""
    layout_batch: int = 128
    steps: int = 1500
    """Of the whole, after those."""
    batch: int = 64
    muon_lr: Annotated[float, tyro.conf.arg(aliases=["--muon"])] = 0.02
    """Learning rate of matrices."""
    adamw_lr: Annotated[float, tyro.conf.arg(aliases=["--adamw"])] = 2e-3
    """Learning rate of the rest."""
    warmup: int = 50
    ema: float = 0.998
    seed: int = 0
    bf16: Annotated[bool, tyro.conf.arg(aliases=["--half"])] = True
    """Compute in bfloat16."""
    device: str = "cpu"
    work: Path = Path("runs/shapes")
    """Pre-rendered pictures and resumable checkpoints."""
    output: Path = Path(__file__).parent / "weights"
    """The finished model folder."""
    save_every: int = 250

    def decisive(self) -> dict:
        """What a checkpoint must agree on to be resumed."""
        return {name: getattr(self, k) for k, name in DECISIVE.items()}

    def fingerprint(self, scenes: str = SCENES) -> str:
        """`decisive` and the scenes, as text."""
        return json.dumps(self.decisive() | {"scenes": scenes})

    def rates(self, step: int) -> tuple[float, float]:
        """Shares of the learning rates at a step: of text encoder and layout decoder, and of the UNet.

        Both warm up, stay, and fall linearly in the last 40% of their time: the former to a fifth, which falls to
        nothing while the UNet is trained.
        """
        ramp = lambda done, of: min(1.0, (done + 1) / self.warmup, (1 - done / of) / 0.4)  # noqa: E731
        if step < self.layout_steps:
            return max(0.2, ramp(step, self.layout_steps)) * min(1.0, (step + 1) / self.warmup), 0.0
        done = step - self.layout_steps
        return 0.2 * (1 - done / self.steps), ramp(done, self.steps)


class Captioned(nn.Module):
    """Text encoder, layout decoder and UNet as one module: what is trained, averaged and saved together."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.text_encoder = build_text_encoder(self.tokenizer)
        self.layout = build_layout()
        self.unet = UNetWithLayout(build_unet(), self.layout.config["channels"])

    def read(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Text states [B, T, width] and layouts [B, channels, h, w]."""
        words = [" ".join(w for w in c.lower().split() if w in self.tokenizer.vocab) for c in captions]
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(words, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        device = next(self.parameters()).device
        states = self.text_encoder(tokens.input_ids.to(device)).last_hidden_state
        return states, self.layout(states)

    def denoise(self, scaled: Tensor, tick: Tensor, states: Tensor, layouts: Tensor) -> Tensor:
        """Clean pictures, patches as channels, from noisy ones over sqrt(1 + sigma^2)."""
        rows = layouts.reshape(len(layouts), -1, states.shape[-1])
        return self.unet(scaled, tick, torch.cat([states, rows], dim=1))[0]


class Training:
    """Model, moving average and optimizers, saved and restored as one safetensors file."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model = Captioned().train().to(recipe.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        alphas = build_scheduler().alphas_cumprod
        self.sigmas = ((1 - alphas) / alphas).sqrt()
        self.matrices: list[tuple[nn.Parameter, nn.Parameter]] = []  # parameters, and flat views for Muon
        self.optimizers = self._optimizers()
        self.step = 0
        self.path = recipe.work / "checkpoint.safetensors"

    def _optimizers(self) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
        """Muon for what maps features to features, AdamW for embeddings, both ends, norms and biases."""
        flat: tuple[list, list] = ([], [])
        plain: tuple[list, list] = ([], [])
        ends = ("embeddings.", "conv_in.", "conv_out.", "layout.out.")
        for name, p in self.model.named_parameters():
            network = name.startswith("unet.")
            if p.ndim < 2 or any(end in name for end in ends):
                plain[network].append(p)
            else:
                view = nn.Parameter(p.data.view(len(p), -1))
                self.matrices.append((p, view))
                flat[network].append(view)
        muon = torch.optim.Muon([{"params": x} for x in flat], lr=self.recipe.muon_lr, weight_decay=0.0)
        adamw = torch.optim.AdamW([{"params": x} for x in plain], self.recipe.adamw_lr, (0.9, 0.99), weight_decay=0.0)
        return muon, adamw

    def _states(self) -> list[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        groups = [(o, group["params"]) for o in self.optimizers for group in o.param_groups]
        return [(f"optimiser.{i}.{j}.", o, p) for i, (o, params) in enumerate(groups) for j, p in enumerate(params)]

    def save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for prefix, optimizer, p in self._states():
            tensors |= {prefix + k: v for k, v in optimizer.state[p].items()}
        metadata = {"step": str(self.step), "recipe": self.recipe.fingerprint()}
        with atomic(self.path, "the checkpoint") as partial:
            write_tensors(tensors, partial, metadata)

    def restore(self) -> None:
        if not self.path.exists():
            return
        tensors, metadata = read_tensors(self.path)
        if metadata.get("recipe") not in [self.recipe.fingerprint(scenes) for scenes in (SCENES, FORMER_SCENES)]:
            raise SystemExit(f"{self.path} was made by another recipe or of other scenes: give another --work")
        self.step = int(metadata["step"])
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        self.model.load_state_dict(part("model."))
        self.average.load_state_dict(part("average."))
        for prefix, optimizer, p in self._states():
            if state := part(prefix):
                optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Squared error of the layouts and, after `layout_steps`, of pictures denoised from uniformly drawn ticks.

        An error of the picture moves a score by as much over sigma^2, and the object by as much over sigma: such a
        weight, bounded, gives all noise levels their share.
        """
        device = self.recipe.device
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self.recipe.bf16):
            states, layouts = self.model.read(batch.captions)
            loss = nn.functional.mse_loss(layouts.float(), pixel_unshuffle(batch.layouts, PATCH).to(device))
            if self.step < self.recipe.layout_steps:
                return loss
            tick = torch.randint(len(self.sigmas), (len(batch.captions),), generator=generator)
            sigma = self.sigmas[tick][:, None, None, None]
            noisy = batch.pictures + sigma * torch.randn(batch.pictures.shape, generator=generator)
            scaled = pixel_unshuffle(noisy / (1 + sigma**2).sqrt(), PATCH).to(device)
            answer = self.model.denoise(scaled, tick.to(device), states, layouts).float()
        error = (answer - pixel_unshuffle(batch.pictures, PATCH).to(device)).square().mean(dim=(1, 2, 3))
        return loss + (error / (sigma.flatten().to(device) + 0.1)).mean()

    def advance(self, data: Pictures) -> float:
        """One step; every random draw comes from (seed, step), so that a resumed run sees what it would have seen."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        count = recipe.layout_batch if self.step < recipe.layout_steps else recipe.batch
        loss = self.loss(data.batch(count, generator), generator)
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for p, view in self.matrices:
            view.grad = None if p.grad is None else p.grad.view_as(view)
        for optimizer, lr in zip(self.optimizers, (recipe.muon_lr, recipe.adamw_lr), strict=True):
            for group, rate in zip(optimizer.param_groups, recipe.rates(self.step), strict=True):
                group["lr"] = lr * rate
            optimizer.step()
        done = self.step - (recipe.layout_steps if self.step >= recipe.layout_steps else 0)  # the average starts anew
        self.step += 1
        decay = min(recipe.ema, (1 + done) / (10 + done))
        averages: list[Tensor] = list(self.average.parameters())
        weights: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage] - has no other name
        return float(loss.detach())


def train(recipe: Recipe) -> None:
    """Train to the end, resuming from `recipe.work`, and write the model folder to `recipe.output`."""
    data = Pictures(load_bank(recipe.work / "pictures.safetensors", print))
    run = Training(recipe)
    run.restore()
    log, total = recipe.work / "log.jsonl", recipe.layout_steps + recipe.steps
    bar = tqdm(total=total, initial=run.step, unit="step", mininterval=2)
    losses: list[float] = []
    started = time.monotonic()
    while run.step < total:
        losses.append(run.advance(data))
        bar.update()
        if run.step % recipe.save_every == 0 or run.step == total:
            mean = sum(losses) / len(losses)
            bar.set_postfix(loss=f"{mean:.4f}")
            with log.open("a") as file:
                seconds = time.monotonic() - started
                file.write(json.dumps({"step": run.step, "loss": mean, "seconds": round(seconds, 1)}) + "\n")
            losses.clear()
            run.save()
    final = copy.deepcopy(run.average)
    save_model(recipe.output, final.unet.unet, final.text_encoder, final.layout, recipe.decisive())
    print(f"wrote {recipe.output}")


if __name__ == "__main__":
    train(tyro.cli(Recipe))
