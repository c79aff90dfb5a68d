"""Write docs/howto/recipes.md: every recipe, what it shows and its lines: `python docs/recipes_page.py`.

A test holds the page to the recipes.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# Recipes

After this page you know which file of `recipes/` to copy. Each is one program, read from top to bottom: what is asked for, the model, the data,
the objective or the step, the experiment. It uses public names only, and data that comes with a package, so nothing is downloaded.

```console
treadle train recipes/vae.py                            # or: python -m treadle train ...
treadle train recipes/vae.py --help                     # every key that may be said on the command line
treadle train recipes/vae.py duration="2 epochs" lr=3e-4
treadle prove recipes/vae.py                            # the same bits twice, and after any kill
```

`reinforce.py` is a loop of its own, and a program: `python recipes/reinforce.py`, and `treadle prove -- python recipes/reinforce.py`. It wants
`pip install gymnasium`.

Start a recipe again after a crash, and it goes on. A test holds each to what it is for: it learns in a few seconds, and, killed and started
again, it ends with the same bits.

| Recipe | What it shows | Lines |
|---|---|---|
"""
TAIL = """
To make one your own: copy the file, change its data, run it. What is used in them is told in [my own loss](my-own-loss.md),
[my own loop](my-own-loop.md), [several models](several-models.md), [steps of your own](custom-steps.md),
[batch iterators](batch-iterators.md) and [prove it](prove.md).

(This page is written from the recipes by `python docs/recipes_page.py`.)
"""


def page() -> str:
    """The whole page."""
    rows = [f"| `{path.name}` | {first_line(path)} | {lines(path)} |" for path in sorted((ROOT / "recipes").glob("*.py"))]
    return HEAD + "\n".join(rows) + "\n" + TAIL


def first_line(path: Path) -> str:
    """The first line of a recipe's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def lines(path: Path) -> int:
    """How many lines it has, all of them."""
    return len(path.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    (ROOT / "docs" / "howto" / "recipes.md").write_text(page(), encoding="utf-8")
