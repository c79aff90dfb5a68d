"""Where a program is killed: spread over its steps, at places drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from treadle.system.stage import Kill

KINDS: tuple[Literal["after step", "in save", "in step"], ...] = ("after step", "in save", "in step")
_CALLS = 16
"""File operations of a small save, and a little more: what follows it is met too."""


def planned(steps: Mapping[str, int], kills: int, seed: int) -> list[Kill]:
    """Kills of one program, one after the other.

    Args:
        steps: how many steps each of its runs makes, in the order of the runs.
        kills: how many.
        seed: what places are drawn from.

    Returns:
        each in its own share of the steps, so that the program comes further from kill to kill.

    Example:
        >>> [kill.number for kill in planned({"a": 4}, 4, seed=0)]
        [1, 2, 3, 4]
    """
    chance = random.Random(f"treadle prove {seed}")
    total = sum(steps.values())
    found = []
    for number in range(kills):
        first, last = number * total // kills, max(number * total // kills, (number + 1) * total // kills - 1)
        name, step = _where(steps, min(chance.randint(first, last), total - 1))
        kind = KINDS[(number + seed) % len(KINDS)]
        found.append(Kill(kind, step, chance.randint(1, _CALLS), round(chance.random(), 3), name))
    return found


def _where(steps: Mapping[str, int], place: int) -> tuple[str, int]:
    """The run and the step, from 1, of a place among all steps."""
    for name, count in steps.items():
        if place < count:
            return name, place + 1
        place -= count
    raise ValueError(f"there is no step {place} beyond the last")
