"""`sjc-fast recipes`: the authors' settings by prompt."""

from __future__ import annotations

from dataclasses import dataclass

from ..runs.recipes import RECIPES
from . import parse


@dataclass
class RecipesOptions:
    """No options."""


def main(arguments: list[str]) -> None:
    """Print the list."""
    parse(RecipesOptions, arguments, "recipes")
    print(f"{'recipe':11} {'steps':>6}  {'lr':>4}  {'emptiness':>9}  {'depth':>5}  estimator  prompt")
    for name, recipe in RECIPES.items():
        numbers = f"{recipe.steps:6}  {recipe.lr:4g}  {recipe.emptiness_weight:9g}  {recipe.depth_weight:5g}"
        print(f"{name:11} {numbers}  {recipe.estimator:9}  {recipe.prompt}")
    print("\nsjc-fast train --recipe ficus    the rest is the paper's: guidance 100, one view and noise sample a step")
