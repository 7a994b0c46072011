"""The embedded model's prompts: its directions, captions of pictures, and what a prompt asks for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..scene.directions import Direction
from ..scores.vocabulary import Vocabulary
from .objects import COLORS, OBJECTS

_AZIMUTHS = ("front", "front left", "left", "back left", "back", "back right", "right", "front right")
_ELEVATIONS = (("low ", (-26.0, 6.0)), ("", (6.0, 44.0)), ("overhead ", (44.0, 76.0)))

#: 8 azimuths x 3 elevations; left and right are the object's own.
DIRECTIONS = tuple(
    Direction(f"{height}{side} view of", (45.0 * i - 22.5, 45.0 * i + 22.5), elevation)
    for height, elevation in _ELEVATIONS
    for i, side in enumerate(_AZIMUTHS)
)

VOCABULARY = Vocabulary(
    objects=tuple(OBJECTS),
    colors=tuple(COLORS),
    other=tuple(sorted({word for d in DIRECTIONS for word in d.words.split()} - {"view", "of"})),
    parts={name: thing.accent for name, thing in OBJECTS.items() if thing.accent},
)


def caption(name: str, color: str, direction: int | None, second: str = "") -> str:
    """The prompt of a picture, e.g. "front left view of a red mushroom with a white stem"."""
    article = lambda word: f"{'an' if word[0] in 'aeiou' else 'a'} {word}"  # noqa: E731
    subject = article(f"{color} {name}" if color else name)
    if second:
        part = OBJECTS[name].accent
        subject += f" with {second if part.endswith('s') else article(second)} {part}"
    return subject if direction is None else f"{DIRECTIONS[direction].words} {subject}"


class ParsedPrompt(NamedTuple):
    """What a prompt asks for; "" and None where it does not say."""

    name: str
    color: str = ""
    second: str = ""
    direction: int | None = None

    def colors(self) -> Tensor:
        """RGB in [0, 1] of the object and of its second part, [2, 3]."""
        return torch.tensor([COLORS[self.color], OBJECTS[self.name].second(self.second)])


def read(prompt: str) -> ParsedPrompt:
    """The opposite of `caption`.

    Raises:
        UserError: the prompt asks for nothing known.
    """
    VOCABULARY.check(prompt)
    words = VOCABULARY.words(prompt)
    at = next(i for i, word in enumerate(words) if word in OBJECTS)
    colored = at > 0 and words[at - 1] in COLORS
    view = " ".join([*words[: at - colored], "view of"])
    known = [d.words for d in DIRECTIONS]
    if view not in (*known, "view of"):
        raise UserError(f"there is no {view.removesuffix(' of')} of these objects")
    return ParsedPrompt(
        words[at],
        words[at - 1] if colored else "",
        words[at + 1] if at + 1 < len(words) else "",
        known.index(view) if view in known else None,
    )
