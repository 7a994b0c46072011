"""What the emptiness loss and the centre-depth loss do: floaters, and where the object stands."""

from __future__ import annotations

from typing import Any

import torch

from ..field import VoxelField
from ..shapes.objects import OBJECTS
from ..shapes.prompts import read
from .frame import Context, Finding, interval, told
from .objects import config_for, make

PROMPTS = ("a red mushroom", "a blue snowman")
MARGIN = 0.06  # beyond the true surface, so that what is merely soft is no floater; voxels are 2 / 48 wide


def variants(weight: float) -> dict[str, dict[str, Any]]:
    """Settings by name, around the model's own emptiness weight."""
    late = 20.0
    return {
        "as it is": {},
        "no emptiness": {"emptiness_weight": 0.0},
        "early and late alike": {"emptiness_multiplier": 1.0},
        "late weight from the start": {"emptiness_weight": weight * late, "emptiness_multiplier": 1.0},
        "centre depth 0.1": {"depth_weight": 0.1},
        "centre depth 10": {"depth_weight": 10.0},
    }


def run(context: Context) -> Finding:
    """Every variant, prompt and seed."""
    context.need_scenes()
    weight = context.model.settings.get("losses", {}).get("emptiness_weight", 1e4)
    table = variants(weight)
    rows = []
    for name, losses in table.items():
        for prompt in PROMPTS[: context.pick(2, 1)]:
            for seed in context.seeds:
                field, judged = make(context, config_for(context, prompt, seed, {"losses": losses}))
                rows.append({"variant": name, "prompt": prompt, "seed": seed, **judged[-1], **stray(field, prompt)})
        context.say(f"  {name}: floaters {told(r['floaters'] for r in rows if r['variant'] == name)}")
    of = lambda name, key: [r[key] for r in rows if r["variant"] == name]  # noqa: E731
    less = [a - b for a, b in zip(of("no emptiness", "floaters"), of("as it is", "floaters"), strict=True)]
    measured = (
        f"Share of the density's mass outside the true object: {told(of('as it is', 'floaters'))} with the model's own "
        f"settings, {told(of('no emptiness', 'floaters'))} without emptiness loss, "
        f"{told(of('early and late alike', 'floaters'))} without its schedule; PSNR {told(of('as it is', 'psnr'), 2)}, "
        f"{told(of('no emptiness', 'psnr'), 2)} and {told(of('early and late alike', 'psnr'), 2)} dB. Centre-depth "
        f"loss: the object's centre is {told(of('as it is', 'offset'))} of the box's half side from the true one "
        f"without it, {told(of('centre depth 10', 'offset'))} with weight 10."
    )
    mean, half = interval(less)
    return Finding(
        "The emptiness loss, raised half-way, removes floaters; the centre-depth loss keeps the object in the middle "
        "(section 4.3).",
        measured,
        mean - half > 0,
        {"rows": rows},
        lambda figure: _draw(figure, rows, list(table)),
        (10, 4),
    )


@torch.no_grad()
def stray(field: VoxelField, prompt: str) -> dict[str, float]:
    """Share of the mass outside the true object, and the distance between its centre and the true one."""
    axis = (torch.arange(field.density.shape[0]) + 0.5) / field.density.shape[0] * 2 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
    distance = torch.stack([part.distance(points) for part in OBJECTS[read(prompt).name].parts()]).amin(dim=0)
    density = field.activate_density(field.density).flatten().cpu()
    mass = -torch.expm1(-density * 2 / len(axis))  # the opacity of each voxel
    mass = torch.where(mass > 0.05, mass, 0.0)  # what softplus leaves in empty space adds up, and is seen by nobody
    total = mass.sum().clamp_min(1e-9)
    shell = (distance.abs() < MARGIN).double()  # only surfaces are seen, so only they have a place
    true = (points.double() * shell[:, None]).sum(dim=0) / shell.sum()
    near = mass.double() * shell
    centre = (points.double() * near[:, None]).sum(dim=0) / near.sum().clamp_min(1e-9)
    return {"floaters": float(mass[distance > MARGIN].sum() / total), "offset": float((centre - true).norm())}


def _draw(figure: Any, rows: list[dict], names: list[str]) -> None:
    labels = {"floaters": "mass outside the object", "offset": "offset of the centre", "psnr": "PSNR, dB"}
    for ax, (key, label) in zip(figure.subplots(1, 3, sharey=True), labels.items(), strict=True):
        for i, name in enumerate(names):
            mean, half = interval(r[key] for r in rows if r["variant"] == name)
            ax.barh(name, mean, xerr=half, color=f"C{i}", capsize=3)
        ax.set(xlabel=label)
        ax.grid(alpha=0.3, axis="x")
    figure.axes[0].invert_yaxis()
