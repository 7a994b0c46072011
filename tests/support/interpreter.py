"""Triton's interpreter made truer, and faster: a pytest plugin."""

import dataclasses
import os

import numpy as np
import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and "SJC_EMULATE" not in os.environ


@pytest.fixture(autouse=True, scope="session")
def float32_arguments():
    """The interpreter keeps float arguments of kernels in double precision; a device has them in float32: so here."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._implicit_cvt

    def rounded(argument):
        if isinstance(argument, float):
            handle = interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32)
            return tl.tensor(handle, tl.float32)
        return convert(argument)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_implicit_cvt", rounded)
        yield


@pytest.fixture(autouse=True, scope="session")
def language_patched_once():
    """The interpreter replaces `triton.language` at every call of a device function; once a launch is enough."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    replace = interpreter._patch_lang

    def once(function):
        modules = [module for module in (tl, tl.core) if module in function.__globals__.values()]
        fresh = any(tl.core.is_builtin(module.load) for module in modules)
        return replace(function) if fresh else interpreter._LangPatchScope()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", once)
        yield


@pytest.fixture(autouse=True)
def integer_overflow(request):
    """The interpreter repeats every integer operation in 64 bits, which is half of its time: in the kernels' own tests
    only, since whole steps run the same kernels over the same sizes."""
    if not INTERPRETED or "tests/kernels/" in request.node.nodeid:
        yield
        return
    from triton.runtime.interpreter import interpreter_builder

    with pytest.MonkeyPatch.context() as patch:
        options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)
        patch.setattr(interpreter_builder, "options", options)
        yield
