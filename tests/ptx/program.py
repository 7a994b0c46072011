"""PTX text to a program: instructions in basic blocks, parameters, registers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class Unsupported(Exception):
    """The emulator does not know this."""


@dataclass(frozen=True)
class Instruction:
    """One instruction; `opcode` is split at its dots."""

    opcode: tuple[str, ...]
    operands: tuple[str, ...]  # as written; a vector or an address in its brackets
    predicate: str | None  # a register
    negated: bool
    line: int
    text: str


@dataclass
class Block:
    """Instructions that are executed from the first to the last; only the last may branch, wait or end.

    Only the first may be one that a warp does together; then the block begins when all of the warp is there.
    """

    instructions: list[Instruction] = field(default_factory=list)

    @property
    def together(self) -> bool:
        """Whether the first instruction is a whole warp's."""
        return bool(self.instructions) and _is_together(self.instructions[0])


@dataclass
class Program:
    """A kernel."""

    name: str
    parameters: list[tuple[str, str]]  # name, type
    registers: dict[str, str]  # prefix of names, type
    blocks: list[Block]
    labels: dict[str, int]  # to blocks
    threads: int  # a CTA


_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)$")
_ENDS = {"bra", "ret", "exit", "bar"}
_TOGETHER = {"shfl", "redux", "ldmatrix", "stmatrix"}


def parse(text: str) -> Program:
    """Read the one kernel of a module.

    Raises:
        Unsupported: it holds something that is no plain kernel.
    """
    entry = re.search(r"\.entry\s+(\w+)\(([^)]*)\)([^{]*)\{(.*?)^\}", text, re.S | re.M)
    if entry is None:
        raise Unsupported("no kernel")
    name, listed, directives, body = entry.groups()
    parameters = [(m[2], m[1]) for m in re.finditer(r"\.param\s+\.(\w+).*?(\w+)\s*(?:,|$)", listed, re.M)]
    threads = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", directives)
    if threads is None:
        raise Unsupported("the number of threads is not said")
    registers = {m[2]: m[1] for m in re.finditer(r"\.reg\s+\.(\w+)\s+%(\w+?)<\d+>;", body)}
    first = text[: entry.start(4)].count("\n") + 1
    blocks, labels = [Block()], {}
    for number, raw in enumerate(body.splitlines(), first):
        line = raw.split("//")[0].strip()
        if line.startswith((".reg", ".loc", ".pragma")) or line in ("", "{", "}"):
            continue
        if line.endswith(":"):
            if blocks[-1].instructions:
                blocks.append(Block())
            labels[line[:-1]] = len(blocks) - 1
            continue
        instruction = _read(line, number)
        if _is_together(instruction) and blocks[-1].instructions:
            blocks.append(Block())
        blocks[-1].instructions.append(instruction)
        if instruction.opcode[0] in _ENDS:
            blocks.append(Block())
    return Program(name, parameters, registers, blocks, labels, int(threads[1]))


def _is_together(instruction: Instruction) -> bool:
    return instruction.opcode[0] in _TOGETHER or instruction.opcode[:2] == ("bar", "warp")


def _read(line: str, number: int) -> Instruction:
    if not line.endswith(";"):
        raise Unsupported(f"line {number}: {line}")
    negated, predicate, opcode, rest = _INSTRUCTION.match(line[:-1]).groups()
    # Commas within brackets belong to an operand.
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest)
    return Instruction(tuple(opcode.split(".")), tuple(operands), predicate, bool(negated), number, line)
