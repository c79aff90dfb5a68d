"""What is shown: a bar that adds up, tables, a picture, a file that can be read again."""

import io
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from profile_facts import FACTS, VERDICT
from treadle.log.figure import save
from treadle.profile.measured import Measured
from treadle.profile.phases import PHASES
from treadle.profile.picture import by_step, draw
from treadle.profile.tables import COLOURS, show, widths


def test_every_phase_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) == set(PHASES)
    assert len(set(COLOURS.values())) == len(PHASES)


@pytest.mark.parametrize("room", [1, 7, 80, 119])
def test_the_bar_is_as_long_as_it_should_be(room: int) -> None:
    assert sum(widths(FACTS, room).values()) == room
    assert min(widths(FACTS, room).values()) >= 0


def test_the_file_can_be_read_again(tmp_path: Path) -> None:
    FACTS.save(tmp_path / "profile.json")
    assert asdict(Measured.load(tmp_path / "profile.json")) == asdict(FACTS)
    json.loads((tmp_path / "profile.json").read_text())
