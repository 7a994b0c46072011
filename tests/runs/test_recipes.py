"""The authors' settings by prompt."""

import pytest

from sjc_fast.cli import main
from sjc_fast.cli.train import read_options
from sjc_fast.runs.recipes import RECIPES


def test_a_recipe_is_the_paper_with_its_changes():
    options = read_options(["--recipe", "zebra", "--model", "shapes"])
    assert options.prompt == "A photo of a zebra walking"
    assert (options.steps, options.optimizer.lr, options.score.estimator) == (10_000, 0.02, "eq15")
    assert (options.losses.emptiness_weight, options.losses.depth_weight) == (3e4, 0)
    assert (options.preset, options.guidance, options.noise_samples, options.field.resolution) == ("paper", 100, 1, 100)
    ficus = read_options(["--recipe", "ficus", "--model", "shapes", "--steps", "50", "--prompt", "a red cube"])
    assert (ficus.losses.depth_weight, ficus.steps, ficus.prompt) == (100, 50, "a red cube")


def test_every_recipe_makes_a_valid_run():
    assert len(RECIPES) == 24
    for name in RECIPES:
        options = read_options(["--recipe", name, "--model", "shapes"])
        options.check()
        assert options.score.estimator in ("eq15", "eq16")


def test_the_list(capsys):
    main(["recipes"])
    said = capsys.readouterr().out
    assert all(recipe.prompt in said and name in said for name, recipe in RECIPES.items())


def test_unknown_recipes_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--recipe", "dragon"])
    assert stop.value.code == 2
    assert "--recipe dragon: there is none" in capsys.readouterr().err
