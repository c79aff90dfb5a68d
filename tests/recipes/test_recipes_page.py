"""The page of recipes is what is there; each is short, and has its row in the table of those that are run."""

import runpy
from pathlib import Path

import pytest

from pages import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.py"))


def test_the_page_of_recipes_is_the_recipes() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "recipes_page.py"))["page"]()
    assert (ROOT / "docs" / "howto" / "recipes.md").read_text(encoding="utf-8") == page, "run: python docs/recipes_page.py"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_at_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 150


def test_every_recipe_is_run() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [path.name for path in RECIPES if f'"{path.stem}"' not in tests and f'"{path.name}"' not in tests] == []
