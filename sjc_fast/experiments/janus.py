"""The Janus problem: an object with a face on every side, and what direction words do against it."""

from __future__ import annotations

from typing import Any

import torch

from ..field import VoxelField
from ..shapes.truth import around_cameras, true_views, views_of
from .frame import Context, Finding, interval, told
from .objects import config_for, make

PROMPTS = ("a blue snowman", "a green house", "a yellow duck")
VARIANTS: dict[str, dict[str, Any]] = {
    "words": {},
    "no words": {"words": "none"},
    "words, cameras anywhere": {"spread": 1.0},
    "blended words, cameras anywhere": {"spread": 1.0, "words": "blended"},
}


def run(context: Context) -> Finding:
    """Every variant, prompt and seed: how many sides show what only the front should."""
    context.need_scenes()
    rows, shown = [], {}
    for name, cameras in VARIANTS.items():
        for prompt in PROMPTS[: context.pick(3, 1)]:
            for seed in context.seeds:
                field, judged = make(context, config_for(context, prompt, seed, {"cameras": cameras}))
                rows.append(
                    {"variant": name, "prompt": prompt, "seed": seed, **judged[-1], "faces": faces(field, prompt)}
                )
                shown.setdefault(name, views_of(field, around_cameras())[0])
        context.say(f"  {name}: {told(r['faces'] for r in rows if r['variant'] == name)}")
    of = lambda name, key: [r[key] for r in rows if r["variant"] == name]  # noqa: E731
    right = lambda name: sum(of(name, "facing")) / len(of(name, "facing"))  # noqa: E731
    more = [a - b for a, b in zip(of("no words", "faces"), of("words", "faces"), strict=True)]
    measured = "; ".join(
        f"{name}: {told(of(name, 'faces'))} of the other sides look more like the front than like themselves, "
        f"front and back right in {right(name):.0%}, PSNR {told(of(name, 'psnr'), 2)} dB"
        for name in VARIANTS
    )
    mean, half = interval(more)
    return Finding(
        "View-dependent prompts mitigate the many-faces problem; without them every side becomes a front.",
        measured[0].upper() + measured[1:] + ".",
        mean - half > 0,
        {"rows": rows},
        lambda figure: _draw(figure, rows, shown),
        (10, 5),
    )


def faces(field: VoxelField, prompt: str) -> float:
    """Share of the seven other sides that are nearer (MSE) to the true front than to their own true picture."""
    views, _ = views_of(field, around_cameras())
    truth, _ = true_views(prompt, held_out=False)
    own = (views - truth).square().mean(dim=(1, 2, 3))
    front = (views - truth[:1]).square().mean(dim=(1, 2, 3))
    return float((front < own)[1:].float().mean())


def _draw(figure: Any, rows: list[dict], shown: dict[str, torch.Tensor]) -> None:
    top, bottom = figure.subfigures(1, 2, width_ratios=(2, 5))
    ax = top.subplots()
    for i, name in enumerate(shown):
        mean, half = interval(r["faces"] for r in rows if r["variant"] == name)
        ax.barh(name.replace(", ", ",\n"), mean, xerr=half, color=f"C{i}", capsize=3)
    ax.set(xlabel="share of sides that look like the front")
    ax.tick_params(labelsize=8)
    ax.invert_yaxis()
    for ax, (name, views) in zip(bottom.subplots(len(shown), 1), shown.items(), strict=True):
        ax.imshow(torch.cat(list(views), dim=-1).clamp(0, 1).permute(1, 2, 0).numpy())
        ax.set_title(f"{name}: from the front, then to the object's left", fontsize=8)
        ax.set_axis_off()
