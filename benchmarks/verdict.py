"""What a run of the GPU script found, held against the targets."""

from __future__ import annotations

from statistics import median
from typing import Any

TARGETS = {
    "paper_setting_us": 150,
    "paper_setting_times_faster": 30,
    "paper_setting_memory_share": 1 / 20,
    "eight_views_fog_over_floor": 2.0,
    "optimizer_share_of_copy": 0.70,
    "step_ms": 8.0,
    "ten_thousand_steps_s": 80.0,
    "rendering_and_optimizer_share": 0.05,
    "unet_share_of_matmul_peak_n8": 0.50,
    "step_reserved_gb": 3.5,
    "step_times_faster_than_plain": 6.0,
}


def verdict(result: dict[str, Any]) -> dict[str, Any]:
    """The targets beside what was reached; only what was measured on a GPU is judged."""
    if result["small"]:
        return {"note": "toy sizes: nothing to judge"}
    rows = [r for name in ("paper", "march") for r in rows_of(result, name) if "scene" in r]
    one = [r for r in rows if (r["size"], r["views"], r["grid"], r["precision"]) == (64, 1, 100, "fp32")]
    eight = [r for r in rows if (r["size"], r["views"], r["scene"]) == (64, 8, "fog")]
    judged: dict[str, Any] = {
        "paper_setting_us": {r["scene"]: r["forward_warm_us"] + r["backward_warm_us"] for r in one},
        "eight_views_fog_over_floor": {
            f"{r['grid']} {r['precision']}": (r["forward_warm_us"] + r["backward_warm_us"])
            / (r["forward_floor_us"] + r["backward_floor_us"])
            for r in eight
            if "forward_floor_us" in r
        },
    }
    for r in rows_of(result, "reference"):
        if r.get("views") == 1:
            key = r["scene"]
            judged.setdefault("paper_setting_times_faster_eager", {})[key] = median(r["reference_seconds"]) / median(
                r["triton_seconds"]
            )
            fused = judged["paper_setting_us"].get(key)
            if fused:
                faster = 1e6 * median(r["reference_seconds"]) / fused
                judged.setdefault("paper_setting_times_faster", {})[key] = faster
            memory = r["triton_peak_bytes"] / r["reference_peak_bytes"]
            judged.setdefault("paper_setting_memory_share", {})[key] = memory
    judged |= step_verdict([r for r in rows_of(result, "steps") if "step_seconds" in r])
    copy = result.get("rates", {}).get("100", {}).get("copy_bytes")
    for r in rows_of(result, "operations"):
        if "bytes" in r and copy:
            judged.setdefault("optimizer_share_of_copy", {})[r["op"]] = r["bytes"] / median(r["seconds"]) / copy
    return judged


def rows_of(result: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What a section found, if it got that far; a section of one finding has one row."""
    found = result.get(name, [])
    return found if isinstance(found, list) else [found]


def quick_verdict(result: dict[str, Any]) -> dict[str, Any]:
    """Does it work: whether each section of `--quick` passed (None: it did not run), and what a step takes."""

    def passed(name: str) -> bool | None:
        rows = rows_of(result, name)
        judged = [r["passes"] for r in rows if "passes" in r]
        if any(isinstance(r.get("error"), str) for r in rows):
            return False
        return all(judged) if judged else None

    works: dict[str, Any] = {
        "march is the reference's": passed("numerics"),
        "other kernels are PyTorch's": passed("operations"),
        "a captured step does what the eager one does": passed("graphs"),
        "Stable Diffusion's step is captured and replayed": passed("replays"),
        "the network's fused call answers as diffusers' own": passed("network"),
    }
    paper = {r["scene"]: r["forward_warm_us"] + r["backward_warm_us"] for r in rows_of(result, "paper") if "scene" in r}
    replays = rows_of(result, "replays")[:1]
    for row in replays:
        works |= {k: row[k] for k in ("step_ms", "reserved_gb", "reserved_after_capture_gb") if k in row}
    return works | {"march of the paper's setting, us": paper}


def step_verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of whole steps: the best way to take one with one noise sample, against its targets."""
    judged: dict[str, Any] = {}
    plain = [r for r in rows if r["mode"] == "plain"]
    ways = {f"{r['mode']} {r['attention']}": r for r in rows if r["samples"] == 1 and r["mode"] != "plain"}
    for way, r in ways.items():
        seconds = median(r["step_seconds"])
        judged.setdefault("step_ms", {})[way] = 1e3 * seconds
        judged.setdefault("ten_thousand_steps_s", {})[way] = 1e4 * seconds
        for kind in ("reserved", "reserved_after_capture"):  # the first holds what cuDNN's search took
            if f"{kind}_bytes" in r:
                judged.setdefault(f"step_{kind}_gb", {})[way] = r[f"{kind}_bytes"] / 1e9
        if plain:
            faster = median(plain[0]["step_seconds"]) / seconds
            judged.setdefault("step_times_faster_than_plain", {})[way] = faster
        if "parts_seconds" in r:
            ours = sum(median(r["parts_seconds"][p]) for p in ("rendering", "optimizer"))
            judged.setdefault("rendering_and_optimizer_share", {})[way] = ours / seconds
    for r in rows:
        if r["samples"] == 8 and "unet_share_of_matmul_peak" in r:
            way = f"{r['mode']} {r['attention']}"
            judged.setdefault("unet_share_of_matmul_peak_n8", {})[way] = r["unet_share_of_matmul_peak"]
    return judged


def table(result: dict[str, Any]) -> str:
    """The march rows, for people: microseconds warm, and the share of the floor."""
    lines = [f"{'case':36} {'forward':>16} {'backward':>16} {'update':>9} {'step':>16}"]
    for r in result.get("march", []):
        if not isinstance(r, dict) or "scene" not in r:
            continue
        case = f"{r['views']} x {r['size']}^2, {r['grid']}^3, {r['scene']}, {r['precision']}"
        cells = [
            f"{r[f'{n}_warm_us']:>9.1f} ({100 * r.get(f'{n}_share_of_floor', 0):>3.0f}%)"
            for n in ("forward", "backward", "step")
        ]
        lines.append(f"{case:36} {cells[0]:>16} {cells[1]:>16} {r['update_warm_us']:>9.1f} {cells[2]:>16}")
    return "\n".join(lines)
