"""The emulator against arithmetic done by hand, and against kernels with one thing spoilt, which it must notice."""

import numpy as np
import pytest
import torch

from tests.ptx.machine import Kernel
from tests.ptx.memory import Fault, GlobalMemory, Region
from tests.ptx.program import Unsupported, parse

FRAME = """
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0,
	.param .u64 .ptr .global .align 1 kernel_param_1,
	.param .u32 kernel_param_2
)
.reqntid {threads}
{{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .b32 	%r<40>;
	.reg .b64 	%rd<20>;
	ld.param.b64 	%rd1, [kernel_param_0];
	ld.param.b64 	%rd2, [kernel_param_1];
	ld.param.b32 	%r1, [kernel_param_2];
	mov.u32 	%r2, %tid.x;
	mov.u32 	%r3, %ctaid.x;
	mad.lo.s32 	%r4, %r3, {threads}, %r2;
	mad.wide.s32 	%rd3, %r4, 4, %rd1;
	mad.wide.s32 	%rd4, %r4, 4, %rd2;
{body}
	ret;
}}
"""


def launch(body, source, result, number=0, threads=32, ctas=1, shared=4096):
    """Run instructions with %rd3 and %rd4 pointing to each thread's place in source and result."""
    kernel = Kernel(parse(FRAME.format(body=body, threads=threads)))
    regions = [
        Region(x.ctypes.data, x.ctypes.data + x.nbytes, name) for x, name in ((source, "source"), (result, "result"))
    ]
    pointers = [source.ctypes.data, result.ctypes.data]
    kernel.launch((ctas, 1, 1), [*pointers, number], GlobalMemory(regions), shared)
    return result


def each(operation, source, kind=np.uint32):
    """One instruction on a number a thread: %r6 from %r5 (and %r7 = the thread)."""
    out = np.zeros(len(source), kind)
    before = "ld.global.b32 { %r5 }, [ %rd3 + 0 ];\nmov.u32 %r7, %tid.x;\n"
    body = f"{before}{operation};\nst.global.b32 [ %rd4 + 0 ], {{ %r6 }};"
    return launch(body, source, out, threads=len(source))


NUMBERS = np.random.default_rng(0).integers(0, 2**32, 32, dtype=np.uint32)
REALS = np.random.default_rng(1).normal(size=32).astype(np.float32) * 1000
LANES = np.arange(32, dtype=np.uint32)


@pytest.mark.parametrize(
    ("operation", "truth"),
    [
        ("mul.hi.u32 %r6, %r5, -845247145", lambda n: [int(x) * (2**32 - 845247145) >> 32 for x in n]),
        ("mul.hi.s32 %r6, %r5, -7", lambda n: [(int(x) * -7 >> 32) % 2**32 for x in n.view(np.int32)]),
        (
            "mul.wide.u32 %rd5, %r5, %r5;\nmul.hi.s64 %rd6, %rd5, 6148914691236517206;\ncvt.u32.u64 %r6, %rd6",
            lambda n: [
                (int((np.uint64(x) * np.uint64(x)).view(np.int64)) * 6148914691236517206 >> 64) % 2**32 for x in n
            ],
        ),
        ("div.s32 %r6, %r5, -7", lambda n: [int(x / -7) % 2**32 for x in n.view(np.int32).astype(float)]),
        ("rem.s32 %r6, %r5, 7", lambda n: [int(np.fmod(x, 7)) % 2**32 for x in n.view(np.int32).astype(float)]),
        ("bfe.s32 %r6, %r5, 4, 1", lambda n: [2**32 - 1 if x >> 4 & 1 else 0 for x in n.tolist()]),
        ("bfe.u32 %r6, %r5, 4, 5", lambda n: [x >> 4 & 31 for x in n.tolist()]),
        ("shr.s32 %r6, %r5, 40", lambda n: [2**32 - 1 if x >> 31 else 0 for x in n.tolist()]),
        ("shl.b32 %r6, %r5, 32", lambda n: [0] * 32),
        ("shl.b32 %r6, %r5, %r7", lambda n: [(x << i) % 2**32 for i, x in enumerate(n.tolist())]),
        ("prmt.b32 %r6, %r5, 255, 0x4381U", None),
        ("shfl.sync.bfly.b32 %r6, %r5, 8, 31, -1", lambda n: n[LANES ^ 8]),
        ("shfl.sync.up.b32 %r6, %r5, 1, 0, -1", lambda n: n[np.maximum(LANES.astype(int) - 1, 0)]),
        ("redux.sync.max.s32 %r6, %r5, -1", lambda n: [n.view(np.int32).max().astype(np.uint32)] * 32),
        ("redux.sync.add.s32 %r6, %r5, -1", lambda n: [int(n.astype(np.uint64).sum()) % 2**32] * 32),
        ("setp.lt.s32 %p1, %r5, 0;\nselp.b32 %r6, 3, 4, %p1", lambda n: np.where(n >> 31, 3, 4)),
        ("mov.b64 %rd5, {%r5, %r7};\nshr.u64 %rd6, %rd5, 32;\ncvt.u32.u64 %r6, %rd6", lambda n: LANES),
        ("mul.wide.u32 %rd5, %r5, 16;\nmov.b64 {_, %r6}, %rd5", lambda n: n >> 28),
    ],
)
def test_integers(operation, truth):
    out = each(operation, NUMBERS.copy())
    if truth is None:  # byte 1; the sign of byte 0; byte 3; byte 0 of the second
        sign = np.where(NUMBERS & 128, 255, 0).astype(np.uint32)
        truth = lambda n: (n >> 8 & 255) | sign << 8 | n >> 24 << 16 | np.uint32(255 << 24)  # noqa: E731
    assert out.tolist() == [int(x) for x in truth(NUMBERS)]


@pytest.mark.parametrize(
    ("operation", "truth"),
    [
        ("fma.rn.f32 %r6, %r5, %r5, 0fBF800000", lambda x: (x.astype(np.float64) ** 2 - 1).astype(np.float32)),
        ("max.f32 %r6, %r5, 0f7FC00000", lambda x: x),  # NaN loses
        ("max.NaN.f32 %r6, %r5, 0f7FC00000", lambda x: x * np.float32("nan")),
        ("cvt.rmi.ftz.f32.f32 %r6, %r5", np.floor),
        ("div.full.f32 %r6, %r5, 0f40400000", lambda x: x / np.float32(3)),
        ("abs.f32 %r8, %r5;\nsqrt.rn.f32 %r6, %r8", lambda x: np.sqrt(np.abs(x))),
        ("mov.b64 %rd5, {%r5, %r5};\nadd.f32x2 %rd6, %rd5, %rd5;\nmov.b64 {_, %r6}, %rd6", lambda x: x + x),
        ("cvt.rn.f16.f32 %rs1, %r5;\ncvt.f32.f16 %r6, %rs1", lambda x: x.astype(np.float16).astype(np.float32)),
        (
            "cvt.rn.bf16.f32 %rs1, %r5;\ncvt.u32.u16 %r8, %rs1;\nshl.b32 %r6, %r8, 16",
            lambda x: torch.tensor(x).bfloat16().float().numpy(),
        ),
        ("cvt.rzi.s32.f32 %r8, %r5;\ncvt.rn.f32.s32 %r6, %r8", np.trunc),
    ],
)
def test_reals(operation, truth):
    np.testing.assert_array_equal(each(operation, REALS.copy(), np.float32), truth(REALS).astype(np.float32))


def test_a_conversion_saturates_and_nan_is_zero():
    values = np.array([np.nan, 1e30, -1e30, 2.9, *[0] * 28], np.float32)
    out = each("cvt.rzi.s32.f32 %r6, %r5", values, np.int32)
    assert out[:4].tolist() == [0, 2**31 - 1, -(2**31), 2]


#: The sum of 64 numbers: every thread adds what the thread 32 after it has put into shared memory.
PAIR = """
	ld.global.b32 { %r5 }, [ %rd3 + 0 ];
	mov.b32 %r10, global_smem;
	shl.b32 %r11, %r2, 2;
	add.s32 %r12, %r10, %r11;
	st.shared.b32 [%r12], %r5;
	bar.sync 0;
	xor.b32 %r13, %r11, 128;
	ld.shared.b32 %r6, [%r13];
	add.f32 %r7, %r5, %r6;
	st.global.b32 [ %rd4 + 0 ], { %r7 };
"""
#: A loop whose number of rounds is the thread's.
LOOP = """
	mov.b32 %r5, 0;
	mov.b32 %r6, 0;
$AGAIN:
	setp.ge.s32 %p1, %r5, %r4;
	@%p1 bra $OUT;
	add.s32 %r6, %r6, %r5;
	add.s32 %r5, %r5, 1;
	bra.uni $AGAIN;
$OUT:
	st.global.b32 [ %rd4 + 0 ], { %r6 };
"""


def pair(body=PAIR, ctas=2, **options):
    source = np.arange(64 * ctas, dtype=np.float32)
    return source, launch(body, source, np.zeros_like(source), threads=64, ctas=ctas, shared=256, **options)


def test_threads_part_and_meet_again():
    out = launch(LOOP, np.zeros(128, np.int32), np.zeros(128, np.int32), ctas=4)
    assert out.tolist() == [n * (n - 1) // 2 for n in range(128)]


def test_shared_memory_and_barriers():
    source, out = pair()
    swapped = source.reshape(-1, 2, 32)[:, ::-1].reshape(-1)
    np.testing.assert_array_equal(out, source + swapped)


SOME_LEAVE = """setp.lt.s32 %p1, %r2, 3;
	@%p1 bra $X;
	redux.sync.add.s32 %r7, %r6, -1;
$X:
	mov.b32 %r7, %r7"""


@pytest.mark.parametrize(
    ("good", "spoilt", "message"),
    [
        ("	bar.sync 0;", "", "not ordered by a barrier"),
        ("	bar.sync 0;", "	bar.warp.sync -1;", "not ordered by a barrier"),
        ("%r13, %r11, 128", "%r13, %r11, 256", "a shared access at"),
        ("%r13, %r11, 128", "%r13, %r11, 129", "misaligned"),
        ("[ %rd3 + 0 ]", "[ %rd3 + 4 ]", "of source, of"),
        ("[ %rd4 + 0 ]", "[ %rd1 + 0 ]", "different values"),
        ("[%r12], %r5", "[%r10], %r5", "different values"),
("add.f32 %r7, %r5, %r6", SOME_LEAVE, "do not come"),
        ("add.f32 %r7", "frobnicate.f32 %r7", None),
        ("ld.shared.b32 %r6", "ld.shared.q32 %r6", None),
    ],
)  # fmt: skip
def test_what_is_spoilt_is_noticed(good, spoilt, message):
    assert good in PAIR
    with pytest.raises(Fault if message else Unsupported, match=message):
        pair(PAIR.replace(good, spoilt))


def test_a_barrier_that_some_threads_miss():
    body = "setp.lt.s32 %p1, %r2, 40;\n@%p1 bar.sync 0;\nst.global.b32 [ %rd4 + 0 ], { %r2 };"
    with pytest.raises(Fault, match="not every thread"):
        pair(body)


def test_one_cta_may_not_read_what_another_writes():
    """In CTA 1: what CTA 0 wrote into the result."""
    body = "st.global.b32 [ %rd4 + 0 ], { %r2 };\nld.global.b32 { %r5 }, [ %rd2 + 0 ];"
    with pytest.raises(Fault, match="read by one CTA and written by another"):
        launch(body, np.zeros(64, np.int32), np.zeros(64, np.int32), ctas=2)


def test_reductions_add_up_over_threads_and_ctas():
    body = "ld.global.b32 { %r5 }, [ %rd3 + 0 ];\nred.global.gpu.relaxed.add.f32 [ %rd2 + 0 ], %r5;"
    out = launch(body, np.ones(128, np.float32), np.zeros(4, np.float32), ctas=4)
    assert out.tolist() == [128, 0, 0, 0]


def test_matrices_go_through_shared_memory_transposed_by_rows():
    """Each lane stores a row's 16 bytes; ldmatrix gives lane i the pair i % 4 of row i // 4."""
    body = """
	shl.b32 %r10, %r2, 4;
	st.shared.v4.b32 [%r10], {%r2, %r2, %r2, %r2};
	bar.warp.sync -1;
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r10];
	st.global.b32 [ %rd4 + 0 ], { %r6 };
"""
    out = launch(body, np.zeros(32, np.int32), np.zeros(32, np.int32))
    assert out.tolist() == [8 + lane // 4 for lane in range(32)]
