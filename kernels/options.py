"""How every Triton kernel is launched: one warp a program, and whether Triton compiles or interprets."""

from __future__ import annotations

from typing import Any

from triton import knobs

#: TRITON_INTERPRET=1 runs the kernels in NumPy, on the CPU: for tests.
INTERPRETING: bool = knobs.runtime.interpret
#: Multiplications and additions may fuse, whatever the default of the Triton release is.
OPTIONS = {"num_warps": 1, "enable_fp_fusion": True}


def launch(kernel: Any, *grid: int) -> Any:
    """A Triton kernel over a grid of programs, to be called with its arguments.

    Triton's types describe a kernel as the function that it is inside, where constants are `tl.constexpr`.
    """
    return kernel[grid]
