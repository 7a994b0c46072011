"""What the compiler makes of the kernels, with no GPU: registers, spills, vector loads and reductions, barriers.

Kernels are compiled ahead of time with the constants that production launches use, and read back from the binary.
``python -m benchmarks.binaries [arch ...]`` prints a table; tests assert on the same rows.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sjc_fast.kernels.adamax import kernels as adamax
from sjc_fast.kernels.bricks import kernels as bricks
from sjc_fast.kernels.composite import kernels as composite
from sjc_fast.kernels.march import kernels as march
from sjc_fast.kernels.march import launch
from sjc_fast.kernels.measure import kernels as measure
from sjc_fast.kernels.options import INTERPRETING, OPTIONS
from sjc_fast.kernels.paas import kernels as paas
from sjc_fast.kernels.trilinear import kernels as trilinear
from sjc_fast.kernels.unet import kernels as unet
from sjc_fast.kernels.unet import launch as unet_launch

from .report import save

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
INTEGERS = {
    "height", "width", "depth", "grid_depth", "grid_height", "grid_width", "count", "rays", "samples", "copies",
    "pixels", "rows", "views", "numbers", "parts", "first_view", "first_draw", "draws",
}  # fmt: skip
FLOATS = {
    "density_shift",
    "step",
    "beta",
    "skip_below",
    "rest1",
    "beta2",
    "rest2",
    "decay1",
    "decay2",
    "epsilon",
    "coefficient",
}


@dataclass(frozen=True)
class Variant:
    """A kernel with the constants and pointer types of one production launch."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    types: dict[str, str | tuple[str, ...]]  # other than *fp32, i32 and fp32; tuples of several
    warps: int = 1
    registers: int | None = None  # the ceiling that the launch sets


@dataclass(frozen=True)
class Row:
    """What the binary of a variant holds."""

    name: str
    arch: int
    registers: int
    stack: int  # bytes a thread spills, or keeps in local memory
    spills: int  # spilling instructions
    shared: int  # bytes a program
    vector_moves: int  # loads and stores of 128 bits
    loop: int  # instructions in the innermost loop that samples the grid; 0 if there is none
    loop_barriers: int
    loop_shared: int  # reads and writes of shared memory
    loop_loads: int
    loop_vector_loads: int  # of four numbers: 128 bits, or 64 in half precision
    loop_reductions: int
    loop_vector_reductions: int  # of four float32


def variants() -> list[Variant]:
    """Every launch that training and pictures make; the first ones matter most."""
    if INTERPRETING:
        raise RuntimeError("unset TRITON_INTERPRET: the interpreter's kernels cannot be compiled")
    found = []
    for precision, views in (("fp32", 1), ("fp16", 1), ("fp16", 8), ("fp16", 64)):
        found += _march_pair(f"{precision}, {views} x 64^2", 4, False, views * 64 * 64, f"*{precision}")
    found += _march_pair("fp32 C=3 colors, 1 x 64^2", 3, True, 64 * 64, "*fp32")
    found += [_stacked(variant) for variant in found[:2]]
    for channels in (16, 32):
        found += _march_pair(f"fp32 C={channels}, 1 x 64^2", channels, False, 64 * 64, "*fp32")
    constants = {
        "C": 4,
        "STRIDE": 4,
        "SIGMOID": False,
        "TEXTURE": True,
        "STACKED": False,
        "SKIP": True,
        "SEGMENTS": 1,
        "LANES": 1,
    }
    constants |= launch.tile_of(32, 512) | {"TEST": 4}
    found.append(
        Variant("march_forward skipping", march.march_forward, constants, {}, registers=launch.FORWARD_REGISTERS[0])
    )
    backward = next(v for v in found if v.name.startswith("march_backward"))
    wide = dict.fromkeys(("grad_density", "grad_features", "grad_background", "grad_log_scale"), "*i64")
    fixed = backward.constants | {"FIXED": True, "DEPTH": True, "OPACITY": True}
    found.append(
        Variant(
            "march_backward deterministic",
            backward.kernel,
            fixed,
            backward.types | wide,
            registers=launch.FIXED_REGISTERS[0],
        )
    )
    rays = {"C": 4, "RAYS": composite.RAYS_A_PROGRAM, "LANES": composite.LANES_A_RAY}
    found.append(Variant("composite", composite.composite_kernel, rays, {}))
    found.append(Variant("composite backward", composite.composite_gradient_kernel, rays, {}))
    points = {"C": 4, "WIDE": 4, "BLOCK": trilinear.BLOCK_SIZE}
    found.append(Variant("trilinear", trilinear.sample_kernel, points, {}, warps=4))
    both = points | {"TO_GRID": True, "TO_POINTS": True}
    found.append(Variant("trilinear backward", trilinear.gradient_kernel, both, {}, warps=4))
    update = {
        "ADAM": False,
        "COPY": True,
        "BRICKS": False,
        "ROW": 4,
        "GRAD_ROW": 4,
        "COPY_ROW": 4,
        "BLOCK": adamax.BLOCK_SIZE,
    }
    pointers = {"copy": "*fp16", "step": "*i64", "rate": "*fp64"}
    found.append(Variant("adamax", adamax.optimizer_kernel, update, pointers, warps=4))
    refresh = update | {"BRICKS": True, "ROW": 100, "GRAD_ROW": 100, "COPY_ROW": 100}
    found.append(Variant("optimizer with bricks", adamax.optimizer_kernel, refresh, pointers, warps=4))
    parts = {"ADAM": False, "ROWS": ((1, 1, 0), (1, 1, 0), (1, 1, 0), (16, 1, 4)), "BLOCK": adamax.BLOCK_SIZE}
    tuples = dict.fromkeys(("parameters", "grads", "firsts", "seconds"), ("*fp32",) * 4)
    tuples |= {"rates": ("*fp64",) * 4, "counts": ("i32",) * 4, "apart": ("i32",) * 4, "step": "*i64"}
    found.append(Variant("adamax of a field", adamax.optimizer_parts_kernel, parts, tuples, warps=4))
    finish = {"ray_slots": "*i32", "given": "*i64", "slots": "*i64"}
    found.append(Variant("finish_views", march.finish_views, {"GIVEN": True, "BLOCK": 4096}, finish, warps=16))
    found.append(Variant("measure", measure.measure_kernel, {"BLOCK": 4096}, {}, warps=16))
    batch = {"CHANNELS": 4, "DRAWN": 1, "MIRRORED": False, "DOUBLED": True, "PATCH": 1, "LAST": True}
    batch["BLOCK"] = paas.BLOCK_SIZE
    noise = {"seed": "*i64", "step": "*i64", "out": "*fp16"}
    found.append(Variant("perturb", paas.perturb_kernel, batch, noise, warps=4))
    answers = {"seed": "*i64", "step": "*i64", "answer": "*fp16"}
    plain = {"FITTED": False}
    found.append(Variant("paas update", paas.paas_update_kernel, batch | plain, answers, warps=4))
    fit = {"COUNT": 8, "CHANNELS": 4, "DOUBLED": True, "PATCH": 1, "LAST": True, "BLOCK": paas.REGRESSION_BLOCK}
    found.append(Variant("regress", paas.regress_kernel, fit, answers, warps=8))
    many = batch | {"FITTED": True, "DRAWN": 8}
    found.append(Variant("paas update fitted", paas.paas_update_kernel, many, answers, warps=4))
    found += _unet_variants()
    found.append(Variant("brick_maximum", bricks.brick_kernel, {"COUNT": 1}, {"bricks": "i32"}, warps=4))
    return found


def _stacked(variant: Variant) -> Variant:
    """The same for views of several grids."""
    constants, types = variant.constants | {"STACKED": True}, variant.types | {"asset": "*i64"}
    return replace(variant, name=variant.name.replace("1 x", "stacked, 8 x"), constants=constants, types=types)


def _unet_variants() -> list[Variant]:
    """Of Stable Diffusion's UNet: its largest and smallest groups, its widest rows."""
    half = dict.fromkeys(
        ("x", "residual", "skip", "bias", "shift", "weight", "offset", "total", "out", "ahead"), "*fp16"
    )
    norm = {"C": 320, "WIDTH": 320, "GROUP": 10, "RESIDUAL": True, "BIAS": True, "SHIFT": False, "STORE": True}
    norm |= {"SILU": True, "ONE": False, "BLOCK": unet_launch.GROUP_BLOCK}
    small = norm | {"C": 2560, "WIDTH": 1280, "GROUP": 80, "ONE": True, "BLOCK": 8192}
    rows = {"C": 1280, "AHEAD": True, "ROWS": 1, "BLOCK": 2048}
    gate = {"C": 1280, "BLOCK": unet_launch.GEGLU_BLOCK}
    return [
        Variant("group_norm 64^2", unet.group_norm_kernel, norm, half, warps=32),
        Variant("group_norm 8^2 beside a skip", unet.group_norm_kernel, small, half, warps=16),
        Variant("layer_norm", unet.layer_norm_kernel, rows, half, warps=4),
        Variant("geglu", unet.geglu_kernel, gate, half, warps=4),
    ]


def _march_pair(label: str, channels: int, sigmoid: bool, rays: int, pointer: str) -> list[Variant]:
    lanes, segments = launch.split(rays)
    shared = {
        "C": channels,
        "STRIDE": channels,
        "SIGMOID": sigmoid,
        "TEXTURE": True,
        "STACKED": False,
        "SEGMENTS": segments,
        "LANES": lanes,
    }
    forward = shared | launch.tile_of(32 // lanes, 64) | {"SKIP": False, "TEST": launch.chunks_between_tests(segments)}
    backward = shared | launch.tile_of(32, 64) | {"FIXED": False, "DEPTH": False, "OPACITY": False, "SPAN": 1}
    backward["EMPTINESS"] = True
    types = {"density": pointer, "features": pointer}
    most = [launch.registers(channels, *limits) for limits in (launch.FORWARD_REGISTERS, launch.BACKWARD_REGISTERS)]
    return [
        Variant(f"march_forward {label}", march.march_forward, forward, types, registers=most[0]),
        Variant(
            f"march_backward {label}",
            march.march_backward,
            backward,
            types | {"slots": "*i64"},
            registers=most[1],
        ),
    ]


def compile_variant(variant: Variant, arch: int) -> Row:
    """Compile for sm_<arch> and read the binary."""
    names = variant.kernel.arg_names
    types = {"out_slots": "*i32", "out_stop": "*i32"} | variant.types

    def kind(name: str) -> str | tuple[str, ...]:
        if name in variant.constants:
            return "constexpr"
        return types.get(name) or ("i32" if name in INTEGERS else "fp32" if name in FLOATS else "*fp32")

    signature = {n: kind(n) for n in names}
    # As the launcher marks them: pointers, and sizes that divide by 16 where the kernel is specialized on sizes.
    free = {p.name for p in variant.kernel.params if p.do_not_specialize}
    known: list[tuple[int, ...]] = []
    for i, n in enumerate(names):
        members = signature[n] if isinstance(signature[n], tuple) else [signature[n]]
        places = [(i, k) for k in range(len(members))] if isinstance(signature[n], tuple) else [(i,)]
        sized = [m.startswith("*") or (m == "i32" and n not in free) for m in members]
        known += [place for place, does in zip(places, sized, strict=True) if does]
    aligned = {place: [["tt.divisibility", 16]] for place in known}
    options = OPTIONS | {"num_warps": variant.warps} | ({"maxnreg": variant.registers} if variant.registers else {})
    source = ASTSource(variant.kernel, signature, variant.constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return read_binary(variant.name, arch, compiled.asm["cubin"])


def read_binary(name: str, arch: int, binary: bytes) -> Row:
    """Resource usage and instructions, from cuobjdump."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage, code = (
            subprocess.run([TOOL, flag, file.name], capture_output=True, text=True, check=True)
            for flag in ("-res-usage", "-sass")
        )
    numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage.stdout + usage.stderr)
    registers, stack, shared = (int(n) for n in numbers.groups())
    lines = [(int(a, 16), i.strip()) for a, i in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);", code.stdout)]
    loop = _sampling_loop(lines)
    four = r"LDG\.E(\.\w+)*\.64" if "fp16" in name else r"LDG\.E(\.\w+)*\.128"
    return Row(
        name,
        arch,
        registers,
        stack,
        _count(r"\b(STL|LDL)\b", [i for _, i in lines]),
        shared,
        _count(r"\b(LDG|STG)\.E(\.\w+)*\.128", [i for _, i in lines]),
        len(loop),
        _count(r"\bBAR\.", loop),
        _count(r"\b(LDS|STS)\b", loop),
        _count(r"\bLDG\b", loop),
        _count(four, loop),
        _count(r"\bREDG?\.E\.ADD", loop),
        _count(r"\bREDG?\.E\.ADD\.F32x4", loop),
    )


def _sampling_loop(lines: list[tuple[int, str]]) -> list[str]:
    """The shortest stretch that a branch back closes and that gathers eight corners or more."""
    bodies = []
    for address, instruction in lines:
        target = re.search(r"\bBRA\b.*\b0x([0-9a-f]+)", instruction)
        if target and int(target[1], 16) < address:
            body = [i for a, i in lines if int(target[1], 16) <= a <= address]
            if _count(r"\bLDG\b", body) >= 8:
                bodies.append(body)
    return min(bodies, key=len, default=[])


def _count(pattern: str, instructions: list[str]) -> int:
    return sum(bool(re.search(pattern, i)) for i in instructions)


def table(rows: list[Row]) -> str:
    """For people."""
    head = f"{'kernel':42} {'sm':>4} {'regs':>5} {'spill':>6} {'smem':>5} {'loop':>5} {'loads (x4)':>11}"
    head += f" {'reds (x4)':>10} {'bar':>4}"
    lines = [
        f"{r.name:42} {r.arch:>4} {r.registers:>5} {r.stack:>5}B {r.shared:>5} {r.loop:>5} "
        f"{r.loop_loads:>5} ({r.loop_vector_loads:>3}) "
        f"{r.loop_reductions:>4} ({r.loop_vector_reductions:>3}) {r.loop_barriers:>4}"
        for r in rows
    ]
    return "\n".join([head, *lines])


def _compile_by_name(job: tuple[str, int]) -> Row:
    name, arch = job
    return compile_variant(next(v for v in variants() if v.name == name), arch)


def main(arguments: list[str]) -> None:
    """`[--json] [--save] [arch ...]`: sm_90 in full by default; elsewhere those that need most."""
    as_json = "--json" in arguments
    names = [v.name for v in variants()]
    jobs = []
    for arch in [int(a) for a in arguments if a.isdigit()] or [90]:
        jobs += [
            (n, arch) for n in (names if arch == 90 else [*names[:4], "adamax", "adamax of a field", "group_norm 64^2"])
        ]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(_compile_by_name, jobs))
    print(json.dumps([asdict(r) for r in rows]) if as_json else table(rows))
    if "--save" in arguments:
        print(save("binaries", {"triton": triton.__version__, "rows": [asdict(r) for r in rows]}))


if __name__ == "__main__":
    main(sys.argv[1:])
