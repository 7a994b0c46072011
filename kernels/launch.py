"""How kernels are launched: one warp a program, and whether Triton compiles or interprets."""

from __future__ import annotations

import triton

#: TRITON_INTERPRET=1 runs the kernels in NumPy, on the CPU: for tests.
INTERPRETING: bool = triton.knobs.runtime.interpret
#: Multiplications and additions may fuse, whatever the default of the Triton release is.
OPTIONS = {"num_warps": 1, "enable_fp_fusion": True}
