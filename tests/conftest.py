"""Settings of the whole test run."""

import os
import sys

import pytest
import torch

from sjc_fast.errors import name_settings_as_options
from tests.support.browser import PROGRAM, chromium

if "--emulate" in sys.argv:
    os.environ["SJC_EMULATE"] = "1"  # for the processes that share the tests, too
EMULATED = "SJC_EMULATE" in os.environ
if EMULATED:  # before anything imports Triton or the kernels
    os.environ.pop("TRITON_INTERPRET", None)
    from tests.ptx import device

    device.install(int(os.environ.get("SJC_EMULATE_ARCH", "90")))
    device.load_kernels()
elif not torch.cuda.is_available():  # the kernels run in Triton's interpreter; it is read when they are imported
    os.environ["TRITON_INTERPRET"] = "1"

pytest_plugins = ["tests.support.interpreter", "tests.support.rounding"]


def pytest_addoption(parser):
    parser.addoption("--emulate", action="store_true", help="kernels compiled, and their PTX run by tests/ptx")


def pytest_terminal_summary(terminalreporter):
    if EMULATED and device.LAUNCHES:
        terminalreporter.write_line(f"emulated launches: {device.LAUNCHES}")


@pytest.fixture(autouse=True)
def settings_by_name():
    """Whoever calls the command line's `main` in a test leaves messages as Python's users see them."""
    yield
    name_settings_as_options(False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where SJC_FORBID_SKIPS is set (continuous integration), a test that would be skipped fails instead."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("SJC_FORBID_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where skips are forbidden: {report.longrepr}"


def pytest_collection_modifyitems(config, items):
    """What needs a GPU is left out, not skipped, where there is none; and what needs the interpreter where there is."""
    unwanted = "interpreter" if torch.cuda.is_available() else "gpu"
    left_out = [item for item in items if item.get_closest_marker(unwanted)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def poison(monkeypatch):
    """Fresh memory is NaN (or a huge integer), so that whatever a kernel forgets to write is seen."""

    def poisoned(make):
        def fill(*args, **kwargs):
            x = make(*args, **kwargs)
            return x.fill_(float("nan") if x.is_floating_point() else 2**30)

        return fill

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))


@pytest.fixture
def same_bits():
    """PyTorch's deterministic algorithms, under which an object made among others has the bits that it has alone."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def browser():
    """A real browser without a window."""
    if PROGRAM is None:
        pytest.skip("there is no Chromium on this machine")
    with chromium() as browser:
        yield browser
