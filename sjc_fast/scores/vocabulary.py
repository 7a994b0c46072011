"""The words a small model knows: filler is dropped, and a prompt that asks for nothing it knows is refused."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError

Claim = tuple[str, list[str]]  # a noun, and the colors that stand before it


#: Names of a vocabulary's lists in a file, where they differ from its attributes.
ATTRIBUTES = {"colours": "colors"}


@dataclass(frozen=True)
class Vocabulary:
    """The words of a model folder's `sjc_fast.json`."""

    objects: tuple[str, ...]
    colors: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    parts: dict[str, str] = field(default_factory=dict)
    """By object, the part that may have a color of its own."""

    @classmethod
    def read(cls, tables: dict[str, Any]) -> Vocabulary:
        """From plain data.

        Raises:
            ValueError: it is not lists of words and a table of parts, or names no object.
        """
        lists = {k: v for k, v in tables.items() if k != "parts"}
        for words in lists.values():
            if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
                raise ValueError("the vocabulary must be lists of words")
        if not tables.get("objects"):
            raise ValueError("the vocabulary names no objects")
        parts = tables.get("parts", {})
        if not isinstance(parts, dict) or not all(isinstance(w, str) for w in (*parts, *parts.values())):
            raise ValueError("the vocabulary's parts must be words by object")
        return cls(**{ATTRIBUTES.get(k, k): tuple(v) for k, v in lists.items()}, parts=parts)

    def table(self) -> dict[str, Any]:
        """As plain data, which `read` reads."""
        spelled = {attribute: name for name, attribute in ATTRIBUTES.items()}
        return {spelled.get(k, k): v if isinstance(v, dict) else list(v) for k, v in vars(self).items()}

    def words(self, prompt: str) -> list[str]:
        """The words of the prompt that the model knows, as it learned them: view, color, object, color, part."""
        things, parts, loose = self._claims(prompt)
        told = [w for w in _tokens(prompt) if w in self.other]
        for noun, colors in things:
            told += [*(colors or loose), noun]
        if not things:
            told += loose
        mine = {self.parts.get(noun) for noun, _ in things}
        return told + [w for noun, colors in parts if colors and noun in mine for w in (*colors, noun)]

    def _claims(self, prompt: str) -> tuple[list[Claim], list[Claim], list[str]]:
        """Objects and parts with the colors that stand before them, and the colors before nothing."""
        things: list[Claim] = []
        parts: list[Claim] = []
        colors: list[str] = []
        for word in _tokens(prompt):
            if word in self.colors:
                colors = list(dict.fromkeys([*colors, word]))
            elif word in self.objects or word in self.parts.values():
                (things if word in self.objects else parts).append((word, colors))
                colors = []
        return things, parts, colors

    def check(self, prompt: str) -> None:
        """Refuse a prompt that does not name one known object, or gives a color to what cannot have one.

        Raises:
            UserError: with the list of what is known.
        """
        things, parts, loose = self._claims(prompt)
        named = list(dict.fromkeys(noun for noun, _ in things))
        if not named:
            known = f"it knows: {', '.join(self.objects)}"
            raise UserError(f"this model knows no object in {prompt!r}{self._suggest(prompt)}; {known}")
        if len(named) > 1:
            raise UserError(f"this model makes one object at a time, and {prompt!r} names {', '.join(named)}")
        part = self.parts.get(named[0], "")
        wrong = [noun for noun, colors in parts if colors and noun != part]
        if wrong:
            instead = f"only to its {part}" if part else "to no part of it"
            raise UserError(f"this model can give a second color {instead}, and {prompt!r} names its {wrong[0]}")
        for noun in (named[0], part):
            colors = dict.fromkeys(c for n, own in (*things, *parts) if n == noun for c in own)
            if noun == named[0]:
                colors |= dict.fromkeys(loose)
            if len(colors) > 1:
                raise UserError(f"a {noun} has one color at a time, and {prompt!r} names {', '.join(colors)}")

    def _suggest(self, prompt: str) -> str:
        for word in _tokens(prompt):
            near = difflib.get_close_matches(word, self.objects, n=1, cutoff=0.75)
            if near:
                return f" (did you mean {near[0]}?)"
        return ""


def _tokens(prompt: str) -> list[str]:
    return re.findall(r"[a-z]+", prompt.lower())
