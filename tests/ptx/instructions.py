"""What PTX instructions do, on many threads at once: functions of bits, and of memory.

An instruction becomes a function of the launch, its threads, and the numbers of those that execute it. Rounding: an fma
is computed in float64 and rounded once more (wrong in the last bit once in 2^29); approximate functions are exact.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import Fault
from .program import Instruction, Program, Unsupported

if TYPE_CHECKING:
    from .machine import Kernel, Threads

Step = Callable[["Kernel", "Threads", np.ndarray], "tuple[Any, np.ndarray] | None"]

_INTEGERS = {f"{kind}{bits}": f"{'i' if kind == 's' else 'u'}{bits // 8}" for kind in "bus" for bits in (8, 16, 32, 64)}
TYPES = {name: np.dtype(code).type for name, code in _INTEGERS.items()}
TYPES |= {"pred": np.bool_, "f16": np.float16, "f32": np.float32, "f64": np.float64}
SPECIAL = {"%tid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid"}
_SMALLEST = np.float32(1.1754943508222875e-38)  # of the normal numbers


def compile_instruction(instruction: Instruction, program: Program) -> Step:
    """The function that executes an instruction for those threads whose predicate says so.

    Raises:
        Unsupported: it is not known.
    """
    name = instruction.opcode[0]
    make = FAMILIES.get(name)
    try:
        if make is None:
            raise KeyError(name)
        step = make(instruction, program)
    except (KeyError, ValueError, IndexError) as error:
        raise Unsupported(f"line {instruction.line}: {instruction.text} ({error})") from None
    predicate, negated, text = instruction.predicate, instruction.negated, instruction.text

    def run(kernel: Kernel, threads: Threads, which: np.ndarray) -> Any:
        if predicate:
            chosen = threads.register(predicate)[which]
            which = which[~chosen if negated else chosen]
            if len(which) == 0 and name != "bar":
                return None
        try:
            return step(kernel, threads, which)
        except Fault as fault:
            raise Fault(f"{fault} (line {instruction.line} of {program.name}: {text})") from None

    return run


# Operands -------------------------------------------------------------------------------------------------------------


def reader(text: str, kind: str) -> Callable[[Threads, np.ndarray], Any]:
    """A source operand as numbers of a type: a register, an immediate, or a special register."""
    dtype = np.dtype(TYPES[kind])
    if text in SPECIAL:
        return functools.partial(_special, text, dtype)
    if text.startswith("%"):

        def register(threads: Threads, which: np.ndarray) -> np.ndarray:
            bits = threads.register(text)[which]
            if bits.dtype.itemsize > dtype.itemsize:  # the lower part
                bits = bits.astype(f"u{dtype.itemsize}")
            elif bits.dtype.itemsize < dtype.itemsize:
                raise Fault(f"{text} is narrower than {kind}")
            return bits.view(dtype)

        return register
    value = _immediate(text, dtype)
    return lambda threads, which: np.broadcast_to(value, len(which))


def _immediate(text: str, dtype: np.dtype) -> np.ndarray:
    """A number as written: 0f and 0d hold the bits of a float32 and a float64."""
    if text == "global_smem":
        return np.zeros((), dtype)
    if text.startswith("0f"):
        bits = np.array(int(text[2:], 16), np.uint32)
    elif text.startswith("0d"):
        bits = np.array(int(text[2:], 16), np.uint64)
    else:
        number = int(text.rstrip("U"), 0)
        if dtype == np.bool_:
            return np.array(bool(number))
        bits = np.array(number % (1 << 8 * dtype.itemsize), f"u{dtype.itemsize}")
    return bits.view(dtype)


def _special(name: str, dtype: np.dtype, threads: Threads, which: np.ndarray) -> np.ndarray:
    kind, _, axis = name[1:].partition(".")
    if kind == "ctaid":
        return threads.index["xyz".index(axis)][which].astype(dtype)
    if kind == "nctaid":
        return np.full(len(which), threads.grid["xyz".index(axis)], dtype)
    lanes = threads.lane[which]
    return (lanes if kind == "tid" else lanes % 32).astype(dtype)


def write(threads: Threads, name: str, which: np.ndarray, values: np.ndarray) -> None:
    """Put numbers into a register, wider ones extended by zeros."""
    register = threads.register(name)
    if values.dtype == np.bool_ or register.dtype == np.bool_:
        register[which] = values
        return
    register[which] = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def vector(text: str) -> list[str]:
    """The registers of an operand in braces, or the one that it is."""
    return [part.strip() for part in text.strip("{} ").split(",")]


def address(text: str) -> Callable[[Threads, np.ndarray], np.ndarray]:
    """The address that an operand in brackets means."""
    inner = text.strip("[] ")
    base, _, offset = inner.replace(" ", "").partition("+")
    shift = np.int64(int(offset or "0", 0))
    if base == "global_smem":
        return lambda threads, which: np.full(len(which), shift, np.uint64)

    def found(threads: Threads, which: np.ndarray) -> np.ndarray:
        return (threads.register(base)[which].astype(np.int64) + shift).astype(np.uint64)

    return found


# Arithmetic -----------------------------------------------------------------------------------------------------------


def flushed(x: np.ndarray) -> np.ndarray:
    """Subnormal float32 numbers become zero."""
    return np.where(np.abs(x) < _SMALLEST, np.copysign(np.float32(0), x), x)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return (a.astype(np.float64) * b + c).astype(np.float32)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integers, toward zero."""
    return (np.sign(a) * np.sign(b) * (np.abs(a.astype(np.int64)) // np.abs(b.astype(np.int64)))).astype(a.dtype)


def high(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of a product."""
    bits = 8 * a.dtype.itemsize
    if a.dtype == np.uint32:
        return ((a.astype(np.uint64) * b.astype(np.uint64)) >> np.uint64(bits)).astype(a.dtype)
    return ((a.astype(object) * b.astype(object)) >> bits).astype(a.dtype)  # Python's own integers, of any size


def shifted(left: bool, a: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """By any amount: what is as wide as the number or wider shifts everything out."""
    bits = 8 * a.dtype.itemsize
    few = np.minimum(amount, bits - 1).astype(a.dtype)
    out = a << few if left else a >> few
    if left or a.dtype.kind == "u":
        out = np.where(amount >= bits, a.dtype.type(0), out)
    return out


def extract(a: np.ndarray, position: np.ndarray, length: np.ndarray) -> np.ndarray:
    """A field of bits, extended by its sign where the type has one."""
    bits = 8 * a.dtype.itemsize
    left = (bits - position - length).astype(a.dtype)
    return (a << left) >> (bits - length).astype(a.dtype)


def permuted(a: np.ndarray, b: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Four bytes of eight."""
    eight = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
    out = np.zeros_like(a)
    for place in range(4):
        nibble = (choice >> np.uint32(4 * place)) & np.uint32(15)
        byte = ((eight >> ((nibble & 7).astype(np.uint64) * 8)) & 255).astype(np.uint32)
        byte = np.where(nibble & 8, np.where(byte & 128, 255, 0), byte).astype(np.uint32)
        out |= byte << np.uint32(8 * place)
    return out


def selected(a: np.ndarray, b: np.ndarray, condition: np.ndarray) -> np.ndarray:
    return np.where(condition, a, b)


FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "not": np.invert, "neg": np.negative, "abs": np.abs,  "min": np.minimum,
    "max": np.maximum, "fma": fma, "shl": functools.partial(shifted, True), "shr": functools.partial(shifted, False),
    "bfe": extract, "prmt": permuted, "selp": selected, "sqrt": np.sqrt,
    "ex2": lambda a: np.exp2(a.astype(np.float64)).astype(np.float32),
    "lg2": lambda a: np.log2(a.astype(np.float64)).astype(np.float32),
    "rcp": lambda a: np.float32(1) / a, "rsqrt": lambda a: (1 / np.sqrt(a.astype(np.float64))).astype(np.float32),
}  # fmt: skip
#: Types of sources that are not the instruction's own.
OTHERS = {"shl": {1: "u32"}, "shr": {1: "u32"}, "bfe": {1: "u32", 2: "u32"}, "selp": {2: "pred"}}


def plain(instruction: Instruction, _program: Program) -> Step:
    """Sources to a destination of the same type, number by number."""
    name, *mods, kind = instruction.opcode
    if kind.endswith("x2"):
        return pairs(instruction)
    function = FUNCTIONS.get(name)
    if mods[-1:] == ["f32"] and kind == "f16":  # sm_100 converts the first source
        two: Any = {"add": operator.add, "sub": operator.sub}[name]
        return apply(lambda a, b: two(a.astype(np.float32), b), instruction, ["f16", "f32"], same)
    if name in ("min", "max") and kind == "f32" and "NaN" not in mods:
        function = {"min": np.fmin, "max": np.fmax}[name]
    if name in ("min", "max"):  # sm_100 takes three
        of_two = function
        function = lambda *x: functools.reduce(of_two, x)  # noqa: E731
    if name == "mul" and "hi" in mods:
        function = high
    if name == "div":
        function = operator.truediv if kind == "f32" else divide
    if name == "rem":
        function = lambda a, b: a - divide(a, b) * b  # noqa: E731
    if name == "mad":
        function = lambda a, b, c: a * b + c  # noqa: E731
    if function is None:
        raise KeyError(name)
    others = OTHERS.get(name, {})
    kinds = [others.get(i, kind) for i in range(len(instruction.operands) - 1)]
    return apply(function, instruction, kinds, flushed if "ftz" in mods else same)


def same(x: np.ndarray) -> np.ndarray:
    return x


def apply(
    function: Any, instruction: Instruction, kinds: list[str], finish: Callable[[np.ndarray], np.ndarray]
) -> Step:
    """A function of sources of given types, written to the destination."""
    target, *sources = instruction.operands
    readers = [reader(text, kind) for text, kind in zip(sources, kinds, strict=True)]

    def step(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
        write(threads, target, which, finish(function(*(read(threads, which) for read in readers))))

    return step


def pairs(instruction: Instruction) -> Step:
    """Two float32 numbers in 64 bits, or two float16 numbers in 32."""
    function = FUNCTIONS[instruction.opcode[0]]
    whole, half = ("b64", np.float32) if instruction.opcode[-1] == "f32x2" else ("b32", np.float16)
    target, *sources = instruction.operands
    readers = [reader(text, whole) for text in sources]

    def step(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
        halves = [np.ascontiguousarray(read(threads, which)).view(half) for read in readers]
        write(threads, target, which, np.ascontiguousarray(function(*halves)).view(TYPES[whole]))

    return step


def move(instruction: Instruction, _program: Program) -> Step:
    """`mov`: as it is, or several registers into a wider one, or out of it; the first is the lowest."""
    target, source = instruction.operands
    if not (target + source).count("{"):
        return apply(same, instruction, [instruction.opcode[-1]], same)
    whole = np.dtype(TYPES[instruction.opcode[1]])
    if source.startswith("{"):
        names = vector(source)

        def pack(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
            parts = np.stack([threads.register(name)[which] for name in names], axis=1)
            write(threads, target, which, np.ascontiguousarray(parts).view(whole)[:, 0])

        return pack
    names, part = vector(target), np.dtype(f"u{whole.itemsize // len(vector(target))}")

    def unpack(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
        parts = threads.register(source)[which].view(part).reshape(len(which), -1)
        for i, name in enumerate(names):
            if name != "_":
                write(threads, name, which, parts[:, i])

    return unpack


def wide(instruction: Instruction) -> Step:
    """`mul.wide` and `mad.wide`: the product, and what is added, are twice as wide as the factors."""
    kind = instruction.opcode[2]
    twice = f"{kind[0]}{2 * int(kind[1:])}"
    big = TYPES[twice]

    def function(a: np.ndarray, b: np.ndarray, *c: np.ndarray) -> np.ndarray:
        return sum(c, a.astype(big) * b.astype(big))

    return apply(function, instruction, [kind, kind, twice][: len(instruction.operands) - 1], same)


def multiply(instruction: Instruction, program: Program) -> Step:
    """`mul` and `mad`, of integers and of float32."""
    return wide(instruction) if instruction.opcode[1] == "wide" else plain(instruction, program)


COMPARISONS = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}


def compare(instruction: Instruction, _program: Program) -> Step:
    """To a predicate; a comparison with NaN is false, or true for the kinds that end in u."""
    _, relation, *_, kind = instruction.opcode
    real = kind.startswith("f")

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        unordered = np.isnan(a) | np.isnan(b) if real else np.zeros(len(a), bool)
        if relation in ("num", "nan"):
            return ~unordered if relation == "num" else unordered
        if relation in COMPARISONS:
            return COMPARISONS[relation](a, b) & ~unordered
        return COMPARISONS[relation.removesuffix("u")](a, b) | unordered

    return apply(function, instruction, [kind, kind], same)


def to_bfloat16(a: np.ndarray) -> np.ndarray:
    """The upper half of float32 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(a).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (np.where(np.isnan(a), np.uint32(0x7FFF0000), rounded) >> np.uint32(16)).astype(np.uint16)


def convert(instruction: Instruction, _program: Program) -> Step:
    """Between types."""
    *mods, to, of = instruction.opcode[1:]
    if to == "f16x2":

        def both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            upper, lower = (x.astype(np.float16).view(np.uint16).astype(np.uint32) for x in (a, b))
            return (upper << np.uint32(16)) | lower

        return apply(both, instruction, [of, of], same)
    if to == "bf16":
        return apply(to_bfloat16, instruction, [of], same)
    if of == "bf16":
        return apply(
            lambda a: (a.astype(np.uint32) << np.uint32(16)).view(np.float32), instruction, ["b16"], lambda x: x
        )
    kind = np.dtype(TYPES[to])
    rounding = next((ROUNDINGS[mod] for mod in mods if mod in ROUNDINGS), same)

    def one(a: np.ndarray) -> np.ndarray:
        if "ftz" in mods:
            a = flushed(a)
        if a.dtype.kind != "f":
            return a.astype(kind)
        return rounding(a).astype(kind) if kind.kind == "f" else saturated(rounding(a.astype(np.float64)), kind)

    return apply(one, instruction, [of], same)


#: Of floats to whole numbers.
ROUNDINGS = {"rmi": np.floor, "rpi": np.ceil, "rzi": np.trunc, "rni": np.rint}


def saturated(whole: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Whole float64 numbers as integers: the nearest that there is, and 0 for NaN."""
    limits = np.iinfo(kind)
    whole = np.nan_to_num(whole, nan=0.0)
    high, low = whole >= float(limits.max), whole <= float(limits.min)
    inside = np.where(high | low, 0, whole).astype(kind)
    return np.where(high, limits.max, np.where(low, limits.min, inside)).astype(kind)


# Memory ---------------------------------------------------------------------------------------------------------------


def load(instruction: Instruction, _program: Program) -> Step:
    space, kind = instruction.opcode[1], instruction.opcode[-1]
    targets, where = vector(instruction.operands[0]), instruction.operands[1]
    dtype = np.dtype(TYPES[kind])
    if space == "param":
        name = where.strip("[] ")

        def parameter(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
            value = kernel.parameters[name]
            if isinstance(value, float):
                bits = np.array(value, np.float32).view(np.uint32)
            else:
                bits = np.array(value % (1 << 8 * dtype.itemsize), dtype)
            write(threads, targets[0], which, np.full(len(which), bits, dtype))

        return parameter
    locate = address(where)

    def step(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
        addresses = locate(threads, which)
        _aligned(addresses, dtype.itemsize * len(targets))
        if kernel.counts and space == "global":
            kernel.counts.loads.add(threads.warp[which], addresses)
        for i, target in enumerate(targets):
            there = addresses + np.uint64(i * dtype.itemsize)
            if space == "global":
                values = kernel.memory.load(there, dtype, threads.cta_of_launch[which])
            else:
                values = threads.shared.load(there, dtype, threads.cta[which], threads.lane[which])
            write(threads, target, which, values)

    return step


def _aligned(addresses: np.ndarray, size: int) -> None:
    if bool((addresses % np.uint64(size)).any()):
        raise Fault(f"an access of {size} bytes is misaligned")


def store(instruction: Instruction, _program: Program) -> Step:
    space, kind = instruction.opcode[1], instruction.opcode[-1]
    locate = address(instruction.operands[0])
    sources = [reader(text, kind) for text in vector(instruction.operands[1])]
    size = np.dtype(TYPES[kind]).itemsize

    def step(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
        addresses = locate(threads, which)
        _aligned(addresses, size * len(sources))
        for i, read in enumerate(sources):
            there, values = addresses + np.uint64(i * size), np.ascontiguousarray(read(threads, which))
            if space == "global":
                kernel.memory.store(there, values, threads.cta_of_launch[which])
            else:
                threads.shared.store(there, values, threads.cta[which], threads.lane[which])

    return step


OPERATIONS = {"add": np.add, "min": np.minimum, "max": np.maximum}


def reduce(instruction: Instruction, _program: Program) -> Step:
    """`red`: combine with what is in memory, in any order."""
    kind = instruction.opcode[-1]
    operation = next(OPERATIONS[part] for part in instruction.opcode if part in OPERATIONS)
    locate = address(instruction.operands[0])
    sources = [reader(text, kind) for text in vector(instruction.operands[1])]
    size = np.dtype(TYPES[kind]).itemsize

    def step(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
        addresses = locate(threads, which)
        _aligned(addresses, size * len(sources))
        if kernel.counts:
            kernel.counts.reductions.add(threads.warp[which], addresses)
        for i, read in enumerate(sources):
            kernel.memory.reduce(addresses + np.uint64(i * size), read(threads, which), operation)

    return step


# Threads together -----------------------------------------------------------------------------------------------------


# The machine sees to it that every warp is there with all its threads.


def barrier(instruction: Instruction, _program: Program) -> Step:
    """`bar.sync 0` waits for the CTA, `bar.warp.sync -1` for the warp."""
    if instruction.opcode[1] == "warp":

        def warp(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
            epochs = threads.shared.warp_epoch
            epochs.reshape(-1)[np.unique(threads.warp[which])] += 1

        return warp
    return lambda kernel, threads, which: ("wait", which)


def shuffle(instruction: Instruction, _program: Program) -> Step:
    """Another lane's number: `bfly` of lane xor b, `up` of lane - b, `down` of lane + b; with all 32 lanes."""
    mode = instruction.opcode[2]
    target, source, distance, clamp, mask = instruction.operands
    if mode not in ("bfly", "up", "down", "idx") or mask != "-1" or clamp not in ("31", "0"):
        raise ValueError("another form of shuffle")
    read, away = reader(source, "b32"), reader(distance, "u32")

    def step(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
        values, by = read(threads, which).reshape(-1, 32), away(threads, which).reshape(-1, 32).astype(np.int64)
        lane = np.arange(32)
        asked = {"bfly": lane ^ by, "up": lane - by, "down": lane + by, "idx": by}[mode]
        asked = np.where((asked < 0) | (asked > 31), lane, asked)
        write(threads, target, which, np.take_along_axis(values, asked, axis=1).reshape(-1))

    return step


def combine_warp(instruction: Instruction, _program: Program) -> Step:
    """`redux.sync`: one number of a warp's 32."""
    operation, kind = instruction.opcode[2], instruction.opcode[-1]
    function = {"min": np.fmin, "max": np.fmax}[operation] if kind == "f32" else OPERATIONS[operation]
    target, source, _mask = instruction.operands
    read = reader(source, kind)

    def step(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
        values = function.reduce(read(threads, which).reshape(-1, 32), axis=1, dtype=TYPES[kind])
        write(threads, target, which, np.repeat(values, 32))

    return step


def matrix(instruction: Instruction, _program: Program) -> Step:
    """`ldmatrix`, `stmatrix`: 8 x 8 matrices of 16 bits, whose rows' addresses are given by lanes."""
    loads = instruction.opcode[0] == "ldmatrix"
    place, registers = instruction.operands if not loads else instruction.operands[::-1]
    locate, names = address(place), vector(registers)

    def step(kernel: Kernel, threads: Threads, which: np.ndarray) -> None:
        rows = locate(threads, which).reshape(-1, 32)
        lane = np.arange(32)
        for i, name in enumerate(names):
            there = (rows[:, 8 * i + lane // 4] + (4 * (lane % 4)).astype(np.uint64)).reshape(-1)
            who = threads.cta[which], threads.lane[which]
            if loads:
                write(threads, name, which, threads.shared.load(there, np.dtype(np.uint32), *who))
            else:
                threads.shared.store(there, threads.register(name)[which], *who)

    return step


def branch(instruction: Instruction, program: Program) -> Step:
    target = program.labels[instruction.operands[0]]
    return lambda kernel, threads, which: (target, which)


def leave(_instruction: Instruction, _program: Program) -> Step:
    return lambda kernel, threads, which: ("exit", which)


FAMILIES: dict[str, Callable[[Instruction, Program], Step]] = {
    **dict.fromkeys([*FUNCTIONS, "div", "rem"], plain), "mul": multiply, "mad": multiply, "mov": move, "setp": compare,
    "cvt": convert, "ld": load, "st": store, "red": reduce, "bar": barrier, "shfl": shuffle, "redux": combine_warp,
    "ldmatrix": matrix, "stmatrix": matrix, "bra": branch, "ret": leave, "exit": leave,
}  # fmt: skip
