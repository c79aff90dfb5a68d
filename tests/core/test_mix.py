from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.core.mix import mix

numbers = st.integers(-(2**80), 2**80)


@pytest.mark.parametrize(("number", "expected"), [(0, 0xE220A8397B1DCDAF), (1, 0x6E789E6AA1B965F4), (2, 0x06C45D188009454F)])
def test_one_number_gives_the_published_outputs_of_splitmix64(number: int, expected: int) -> None:
    assert mix(number) == expected


@settings(derandomize=True, database=None, deadline=None)
@given(st.lists(numbers))
def test_the_result_is_a_pure_64_bit_number(values: list[int]) -> None:
    assert mix(*values) == mix(*values)
    assert 0 <= mix(*values) < 2**64


def test_order_and_length_matter() -> None:
    assert len({mix(1, 2), mix(2, 1), mix(1), mix(1, 0), mix(0, 1), mix(1, 2, 0)}) == 6


def test_neighbouring_purposes_never_share_a_value() -> None:
    values = {mix(seed, epoch, index) for seed in range(20) for epoch in range(20) for index in range(50)}
    assert len(values) == 20 * 20 * 50


def test_one_changed_input_bit_changes_about_half_of_the_output_bits() -> None:
    flips = [(mix(7, 1 << bit) ^ mix(7, 0)).bit_count() for bit in range(64)]
    assert min(flips) >= 16
    assert max(flips) <= 48
    assert 28 < sum(flips) / 64 < 36
