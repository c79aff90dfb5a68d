"""What is shown: a bar that adds up, tables, a picture, a file that can be read again."""

import io
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from treadle.log.figure import to_bytes
from treadle.profile.measured import Data, Measured, Module
from treadle.profile.memory import Held
from treadle.profile.phases import BACKWARD, FORWARD, OTHER, PHASES, WAIT
from treadle.profile.picture import by_step, draw
from treadle.profile.tables import COLOURS, show, widths
from treadle.profile.verdict import Verdict

FACTS = Measured(
    steps=2, warmup=1, inside=3, samples=16, wall_s=0.2,
    phases={WAIT: 0.05, FORWARD: 0.08, BACKWARD: 0.069, OTHER: 0.001}, host={}, step_s=[0.15, 0.05],
    timeline=[(FORWARD, 0.0, 0.08), (BACKWARD, 0.08, 0.149), (WAIT, 0.149, 0.199), (OTHER, 0.199, 0.2)], rows=0, busy_s=None, cost_s=1e-6,
    device="cpu", gpu=None, threads=1, cores=2, settings={}, data=Data(),
    modules=[Module("$x_1$", "Net", 7, 0.03, 0.03, 0.01, 0.0, 2**20, 0), Module("[bold]fat", "Linear", 7, 0.02, 0.03, 0.02, 0.03, 2**20, 2**20)],
    memory={"parameters": 2**20, "saved for backward": 3 * 2**19}, peaks={FORWARD: 2**22},
    largest=[Held("saved for backward", "", [512, 512], "float32", 2**20)],
)  # fmt: skip
VERDICT = Verdict("data-bound", "25 % of the time waits", ["do this", "or that"], ["look again"])


def test_every_phase_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) == set(PHASES)
    assert len(set(COLOURS.values())) == len(PHASES)


@pytest.mark.parametrize("room", [1, 7, 80, 119])
def test_the_bar_is_as_long_as_it_should_be(room: int) -> None:
    found = widths(FACTS, room)
    assert sum(found.values()) == room
    assert all(abs(width - room * FACTS.share(name)) <= 1 for name, width in found.items())


def test_where_nobody_looks_there_are_lines_of_cells(capsys: pytest.CaptureFixture[str]) -> None:
    show(FACTS, VERDICT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 steps of 100 ms on cpu, 1 thread: batches of 8, 80 samples/s (after 1 to warm up)"
    assert lines[2:8] == ["phase\tms\t%\tpeak MiB", f"{WAIT}\t25.000\t25.0\t", "forward\t40.000\t40.0\t4.0", "backward\t34.500\t34.5\t",
                          "other\t0.500\t0.5\t", "all\t100.000\t100.0\t4.0"]  # fmt: skip
    assert "[bold]fat\tLinear\t83.3\t20.000\t30.000\t50.000\t7\t1.0" in lines
    assert "  saved for backward: outside of modules\t1.0\t512x512\tfloat32" in lines
    assert lines[-4:] == ["data-bound: 25 % of the time waits", "  - do this", "  - or that", "  note: look again"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_with_its_colours_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "61")
    show(FACTS, VERDICT)
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()
    assert lines[1].count("█") == 60
    assert [name.replace("\N{NO-BREAK SPACE}", " ").strip() for name in lines[2].split("■ ")[1:]] == [WAIT, FORWARD, BACKWARD]


def test_a_step_is_a_line_of_the_picture() -> None:
    found = by_step(FACTS)
    assert [(number, name) for number, name, _, _ in found] == [(1, FORWARD), (1, BACKWARD), (1, WAIT), (2, WAIT), (2, OTHER)]
    assert sum(length for number, _, _, length in found if number == 1) == pytest.approx(0.15)
    figure = draw(FACTS, VERDICT)
    steps, modules, memory = figure.axes
    assert len(steps.patches) == len(found)
    assert [label.get_text() for label in steps.get_legend().get_texts()] == [f"{WAIT} 25.0 %", "forward 40.0 %", "backward 34.5 %", "other 0.5 %"]
    assert [label.get_text() for label in modules.get_yticklabels()] == ["[bold]fat (Linear)", "$x_1$ (Net)"]
    assert [label.get_text() for label in memory.get_yticklabels()] == ["saved for backward", "parameters"]
    assert to_bytes(figure, "png").startswith(b"\x89PNG")


def test_a_picture_without_modules_says_so() -> None:
    assert draw(replace(FACTS, modules=[], memory={}), VERDICT).axes[1].get_title() == "modules cannot be told apart"


def test_one_long_step_does_not_hide_the_others() -> None:
    steps = draw(replace(FACTS, steps=4, step_s=[0.01, 0.01, 0.17, 0.01]), VERDICT).axes[0]
    assert steps.get_xlim() == (0, pytest.approx(11))
    assert [text.get_text() for text in steps.texts] == ["to 170 ms "]


def test_the_file_can_be_read_again(tmp_path: Path) -> None:
    FACTS.save(tmp_path / "profile.json")
    assert asdict(Measured.load(tmp_path / "profile.json")) == asdict(FACTS)
