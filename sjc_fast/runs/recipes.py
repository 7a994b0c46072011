"""The authors' published settings by prompt (their repository's README), as changes to the `paper` preset."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import UserError, setting


class Recipe(NamedTuple):
    """A prompt and what the authors changed for it; the rest is the paper's."""

    prompt: str
    steps: int = 10_000
    depth_weight: float = 0.0
    estimator: str = "eq16"
    lr: float = 0.05
    emptiness_weight: float = 1e4

    def changes(self) -> dict[str, Any]:
        """As a partial configuration tree."""
        return {
            "prompt": self.prompt,
            "preset": "paper",
            "steps": self.steps,
            "score": {"estimator": self.estimator},
            "losses": {"depth_weight": self.depth_weight, "emptiness_weight": self.emptiness_weight},
            "optimizer": {"lr": self.lr},
        }


RECIPES: dict[str, Recipe] = {
    "trump": Recipe("Trump figure", steps=30_000),
    "obama": Recipe("Obama figure", steps=30_000, estimator="eq15"),
    "biden": Recipe("Biden figure"),
    "temple": Recipe("A zoomed out high quality photo of Temple of Heaven"),
    "burger": Recipe("A high quality photo of a delicious burger"),
    "icecream": Recipe("A high quality photo of a chocolate icecream cone", depth_weight=10),
    "ficus": Recipe("A ficus planted in a pot", depth_weight=100),
    "castle": Recipe("A zoomed out photo a small castle", depth_weight=50),
    "sydney": Recipe("A zoomed out high quality photo of Sydney Opera House"),
    "rose": Recipe("a DSLR photo of a rose", depth_weight=50),
    "bus": Recipe("A high quality photo of a yellow school bus", steps=30_000, estimator="eq15"),
    "rocket": Recipe("A wide angle zoomed out photo of Saturn V rocket from distance", steps=30_000, estimator="eq15"),
    "fries": Recipe("A high quality photo of french fries from McDonald's", depth_weight=10),
    "motorcycle": Recipe("A high quality photo of a toy motorcycle"),
    "car": Recipe("A high quality photo of a classic silver muscle car"),
    "tank": Recipe("A product photo of a toy tank", steps=20_000),
    "chair": Recipe(
        "A high quality photo of a Victorian style wooden chair with velvet upholstery",
        steps=50_000,
        lr=0.01,
        emptiness_weight=7000,
    ),
    "duck": Recipe("a DSLR photo of a yellow duck", depth_weight=10),
    "horse": Recipe("A photo of a horse walking"),
    "giraffe": Recipe("A wide angle zoomed out photo of a giraffe", depth_weight=50),
    "zebra": Recipe("A photo of a zebra walking", lr=0.02, emptiness_weight=3e4, estimator="eq15"),
    "printer": Recipe("A product photo of a Canon home printer", estimator="eq15"),
    "link": Recipe("Zelda Link", estimator="eq15"),
    "pig": Recipe("A pig"),
}


def find_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in RECIPES:
        raise UserError(f"{setting('recipe')} {name}: there is none; sjc-fast recipes lists them: {', '.join(RECIPES)}")
    return RECIPES[name]
