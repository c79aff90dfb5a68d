from __future__ import annotations

import re

import pytest

from treadle.core import errors
from treadle.core.errors import TreadleError, did_you_mean

LINE = re.compile(r"    (?P<indent>[│ ]*)[├└]── (?P<name>\w+)(?: +\((?P<also>\w+)\))?")


def drawn_tree() -> dict[str, tuple[str, ...]]:
    """Class name -> names of its bases, as the docstring draws them."""
    assert errors.__doc__ is not None
    tree: dict[str, tuple[str, ...]] = {}
    branch = ["TreadleError"]
    for line in errors.__doc__.splitlines():
        if match := LINE.match(line):
            depth = len(match["indent"]) // 4 + 1
            branch[depth:] = [match["name"]]
            tree[match["name"]] = (branch[depth - 1], match["also"]) if match["also"] else (branch[depth - 1],)
    return tree


def test_the_tree_drawn_in_the_docstring_is_the_tree_of_the_classes() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, TreadleError) and c is not TreadleError]
    assert drawn_tree() == {c.__name__: tuple(base.__name__ for base in c.__bases__) for c in classes}


def test_every_error_has_a_docstring_that_says_what_happened() -> None:
    assert all(vars(errors)[name].__doc__ for name in drawn_tree())


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("batchsize", ["batch_size", "seed"], "; did you mean 'batch_size'?"),
        ("zzz", ["seed", "clip"], "; known: clip, seed"),
        ("zzz", ["seed", "seed"], "; known: seed"),
        ("zzz", [], ""),
        ("seeds", iter(["seed", "clip"]), "; did you mean 'seed'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_or_with_all(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected
