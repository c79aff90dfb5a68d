"""Numbers from numbers: one well-mixed 64-bit integer from any few integers.

Everything random in a run starts from ``mix(seed, ...)``, so two purposes never share a stream, and a value
depends on what it is for and not on when it is asked for.
"""

from __future__ import annotations

MASK = (1 << 64) - 1
GOLDEN, MUL1, MUL2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(*numbers: int) -> int:
    """A 64-bit number that depends on all of several integers and on their order.

    Source:
        the output function of SplitMix64: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators,
        figure 16.

    Example:
        >>> mix(1, 2) == mix(1, 2), mix(1, 2) == mix(2, 1)
        (True, False)
    """
    state = 0
    for number in numbers:
        z = (state + number * GOLDEN + GOLDEN) & MASK
        z = ((z ^ (z >> 30)) * MUL1) & MASK
        z = ((z ^ (z >> 27)) * MUL2) & MASK
        state = z ^ (z >> 31)
    return state
