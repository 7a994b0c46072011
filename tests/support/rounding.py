"""Other roundings than this machine's, and how near to its limit every numerical check comes: a pytest plugin.

``pytest --perturb`` moves every result of exp, log, sigmoid, division and their kin by up to two units in the last
place, in PyTorch's operators and in Triton's interpreter. The move is a function of the result's bits, so what must be
equal bit for bit still is. ``pytest --margins FILE`` appends a line of JSON for every comparison: what was seen, as a
share of what is allowed. A tolerance is sound if no share exceeds a third under any rounding.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

ULPS = 2
#: Functions that differ between mathematics libraries: names of aten operators, backward ones included.
INEXACT = {
    "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sigmoid", "softplus", "softplus_backward",
    "sigmoid_backward", "silu", "silu_backward", "div", "reciprocal", "rsqrt", "tan", "sin", "cos", "atan2", "pow",
    "_softmax", "logsumexp", "linalg_vector_norm",
}  # fmt: skip


def nudge_bits(bits, xp):
    """Int32 bit patterns of floats moved by -ULPS to ULPS, by a hash of themselves."""
    mixed = (bits ^ (bits >> 15)) * 0x2C1B3C6D
    mixed = (mixed ^ (mixed >> 12)) & 0x7FFFFFFF
    return bits + (mixed % (2 * ULPS + 1) - ULPS).astype(np.int32) if xp is np else bits + mixed % (2 * ULPS + 1) - ULPS


def nudge(x: torch.Tensor) -> torch.Tensor:
    """Float32 numbers moved; 0, 1 and -1, which every library gets right, infinities and NaN stay."""
    if x.dtype != torch.float32:
        return x
    exact = (x == 0) | (x.abs() == 1) | ~x.isfinite()
    return torch.where(exact, x, nudge_bits(x.contiguous().view(torch.int32), torch).view(torch.float32).view_as(x))


def nudge_array(x: np.ndarray) -> np.ndarray:
    """`nudge` for NumPy."""
    if x.dtype != np.float32:
        return x
    exact = (x == 0) | (np.abs(x) == 1) | ~np.isfinite(x)
    with np.errstate(over="ignore"):
        moved = nudge_bits(np.ascontiguousarray(x).view(np.int32), np).view(np.float32)
    return np.where(exact, x, moved)


class Perturbed(TorchDispatchMode):
    """Every operator in INEXACT, moved."""

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function._schema.name.removeprefix("aten::").removesuffix("_")
        if name not in INEXACT or not isinstance(out, torch.Tensor) or out.device.type == "meta":
            return out
        moved = nudge(out)
        if name == "div":  # by a power of two it is exact everywhere
            divisor = torch.as_tensor(args[1], device=out.device)
            moved = torch.where(torch.frexp(divisor.float()).mantissa.abs() == 0.5, out, moved)
        if function._schema.name.endswith("_") or "out" in (kwargs or {}):  # in place
            return out.copy_(moved)
        return moved


def perturb_interpreter(patch: pytest.MonkeyPatch) -> None:
    """The same for Triton's interpreter; ``div_rn`` and ``sqrt_rn`` are exact on a device, and stay so."""
    from triton.runtime.interpreter import InterpreterBuilder

    def moved(op):
        return lambda *x: nudge_array(np.asarray(op(*x)))

    def unary(op):
        return lambda self, x: self.unary_op(x, moved(op))

    for name in ("exp", "log", "sin", "cos"):
        patch.setattr(InterpreterBuilder, f"create_{name}", unary(getattr(np, name)))

    def divide(a, b):
        quotient = np.divide(a, b)
        return np.where(np.abs(np.frexp(b)[0]) == 0.5, quotient, nudge_array(quotient))  # exact by a power of two

    patch.setattr(InterpreterBuilder, "create_fdiv", lambda self, a, b: self.binary_op(a, b, divide))


def pytest_addoption(parser):
    group = parser.getgroup("rounding")
    group.addoption(
        "--perturb", action="store_true", help="inexact functions are off by up to 2 units in the last place"
    )
    group.addoption("--margins", help="file to append to: every comparison's error as a share of its tolerance")


@pytest.fixture(autouse=True)
def rounding(request):
    """Perturbs the test's arithmetic where that is asked for, unless it is marked `exact_arithmetic`."""
    if not request.config.getoption("perturb") or request.node.get_closest_marker("exact_arithmetic"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("TRITON_INTERPRET") == "1":
            perturb_interpreter(patch)
        with Perturbed():
            yield


def record(share: float, kind: str) -> None:
    """Note how much of its tolerance a comparison of the running test took."""
    path = os.environ.get("SJC_MARGINS")
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
    if path and test:
        frame = sys._getframe(2)
        while frame and not re.search(r"/tests/(.*/)?test_[^/]*\.py$", frame.f_code.co_filename) and frame.f_back:
            frame = frame.f_back
        line = {"test": test, "line": frame.f_lineno, "kind": kind, "share": share}
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")


class Measured(float):
    """An error that notes what it is compared with."""

    def __lt__(self, limit):
        record(float(self) / limit, "error")
        return float(self) < limit


def share_of(actual, expected, rtol: float, atol: float) -> float:
    """The largest error as a share of ``atol + rtol |expected|``."""
    a, b = (torch.as_tensor(x).detach().double().cpu() for x in (actual, expected))
    allowed = atol + rtol * b.abs()
    error = (a - b).abs()
    share = torch.where(error == 0, torch.zeros_like(error), error / allowed)
    return float(share.max()) if share.numel() else 0.0


def pytest_configure(config):
    path = config.getoption("margins")
    if not path:
        return
    os.environ["SJC_MARGINS"] = str(Path(path).resolve())
    close = torch.testing.assert_close

    @functools.wraps(close)
    def recorded(actual, expected, *, rtol=None, atol=None, **rest):
        if isinstance(actual, torch.Tensor) and isinstance(expected, torch.Tensor) and actual.is_floating_point():
            from torch.testing._comparison import default_tolerances

            tolerances = default_tolerances(actual, expected) if rtol is None else (rtol, atol)
            record(share_of(actual, expected.expand_as(actual), *tolerances), "assert_close")
        return close(actual, expected, rtol=rtol, atol=atol, **rest)

    torch.testing.assert_close = recorded
    from sjc_fast.rendering import checks

    rmse, errors = checks.relative_rmse, checks.errors
    checks.relative_rmse = lambda *a, **k: Measured(rmse(*a, **k))
    checks.errors = lambda *a: {name: Measured(error) for name, error in errors(*a).items()}

    scalar = type(pytest.approx(1.0))
    equal = scalar.__eq__

    def noted(self, actual):
        if isinstance(actual, int | float) and isinstance(self.expected, int | float) and math.isfinite(actual):
            tolerance = self.tolerance
            error = abs(actual - self.expected)
            record(error / tolerance if tolerance else 0.0 if error == 0 else math.inf, "approx")
        return equal(self, actual)

    scalar.__eq__ = noted
