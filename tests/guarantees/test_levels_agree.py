"""Three levels, one loop: on the same config they end with the same bits."""

from pathlib import Path

import pytest

from guarantees.program import run_program
from guarantees.remains import remains

CONFIGS = {
    "plain": [],
    "micro-batches": ["machine.micro_batch=5"],
    "bf16 and no last batch": ["machine.precision=bf16", "drop_last=true"],
}


@pytest.mark.parametrize("overrides", CONFIGS.values(), ids=CONFIGS)
def test_three_levels_end_with_the_same_bits(tmp_path: Path, overrides: list[str]) -> None:
    """Weights, BatchNorm statistics, momentum, random generators, journal, sample ids; with dropout, clipping and a schedule."""
    for level in (1, 2, 3):
        result = run_program(level, str(tmp_path / str(level)), overrides)
        assert result.status == "finished"
    one, two, three = (remains(tmp_path / str(level), levels=True) for level in (1, 2, 3))
    assert one == two
    assert one == three
