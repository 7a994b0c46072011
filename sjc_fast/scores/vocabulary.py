"""The words a small model knows: filler is dropped, and a prompt that asks for nothing it knows is refused."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """The words of a model folder's `sjc_fast.json`."""

    objects: tuple[str, ...]
    colours: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @classmethod
    def read(cls, tables: dict[str, list[str]]) -> Vocabulary:
        """From plain data.

        Raises:
            ValueError: it is not lists of words, or names no object.
        """
        for words in tables.values():
            if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
                raise ValueError("the vocabulary must be lists of words")
        if not tables.get("objects"):
            raise ValueError("the vocabulary names no objects")
        return cls(**{k: tuple(v) for k, v in tables.items()})

    def words(self, prompt: str) -> list[str]:
        """The words of the prompt that the model knows, in order."""
        known = {*self.objects, *self.colours, *self.other}
        return [w for w in re.findall(r"[a-z]+", prompt.lower()) if w in known]

    def check(self, prompt: str) -> None:
        """Refuse a prompt that does not name exactly one known object and at most one known colour.

        Raises:
            UserError: with the list of what is known.
        """
        words = self.words(prompt)
        for kind, known, least in (("object", self.objects, 1), ("colour", self.colours, 0)):
            named = [w for w in dict.fromkeys(words) if w in known]
            if len(named) < least:
                hint = self._suggest(prompt)
                raise UserError(f"this model knows no {kind} in {prompt!r}{hint}; it knows: {', '.join(known)}")
            if len(named) > 1:
                raise UserError(f"this model makes one {kind} at a time, and {prompt!r} names {', '.join(named)}")

    def _suggest(self, prompt: str) -> str:
        for word in re.findall(r"[a-z]+", prompt.lower()):
            near = difflib.get_close_matches(word, self.objects, n=1, cutoff=0.75)
            if near:
                return f" (did you mean {near[0]}?)"
        return ""
