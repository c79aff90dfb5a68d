"""The sketch: curves in the terminal, as wide as it is, and in colour only where colours are seen."""

import io
import re
import sys

import pytest

from treadle.log.curves import Curve
from treadle.log.sketch import print_curves

LOSS = {"loss": {"train/loss": Curve(list(range(1, 41)), [1 / step for step in range(1, 41)]), "valid/loss": Curve([20, 40], [0.5, 0.25])}}
COLOUR = re.compile(r"\x1b\[[\d;]*\b(3\d|4\d|9\d|10\d)[\d;]*m")


class Screen(io.TextIOWrapper):
    """An output that says of itself what it is told."""

    def __init__(self, encoding, terminal):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self._terminal = terminal

    def isatty(self):
        return self._terminal

    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def screen(monkeypatch):
    """Gives a function that puts a screen in the place of stdout."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def put(encoding="utf-8", terminal=False):
        one = Screen(encoding, terminal)
        monkeypatch.setattr(sys, "stdout", one)
        return one

    return put


def dots(text):
    """How many characters are braille dots."""
    return sum(0x2800 < ord(letter) <= 0x28FF for letter in text)


def test_in_colours_the_curves_of_a_panel_are_drawn_together_with_names_limits_and_steps(screen):
    out = screen(terminal=True)
    print_curves(LOSS, width=60)
    title, *canvas, axis = re.sub(r"\x1b\[[\d;]*m", "", out.text()).splitlines()
    assert title.split() == ["loss", "⠤⠤", "train/loss", "⠤⠤", "valid/loss"]
    assert canvas[0].split("│")[0].strip() == "1" and canvas[-1].split("│")[0].strip() == "0.025"
    assert dots("".join(canvas)) > 20
    assert axis.split() == ["step", "1", "40"]


def test_without_colours_the_curves_of_a_panel_stand_below_each_other_on_the_same_axes(screen):
    out = screen()
    print_curves(LOSS, width=60)
    lines = out.text().splitlines()
    titles = [place for place, line in enumerate(lines) if "loss" in line]
    assert [lines[place].split() for place in titles] == [["loss", "⠤⠤", "train/loss"], ["loss", "⠤⠤", "valid/loss"]]
    for title in titles:
        assert lines[title + 1].split("│")[0].strip() == "1"
        assert next(line for line in lines[title:] if "step" in line).split() == ["step", "1", "40"]
        assert dots("".join(lines[title + 1 : title + 10])) > 5


def test_each_panel_is_drawn(screen):
    out = screen(terminal=True)
    print_curves(LOSS | {"accuracy": {"valid/accuracy": Curve([1, 2], [0.1, 0.9])}}, width=60)
    plain = re.sub(r"\x1b\[[\d;]*m", "", out.text())
    assert [line.split()[0] for line in plain.splitlines() if "/" in line] == ["loss", "accuracy"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_where_the_output_cannot_show_dots_nothing_is_drawn(screen, encoding):
    out = screen(encoding)
    print_curves(LOSS, width=60)
    assert out.text() == ""


def test_there_are_no_escape_codes_where_there_is_no_terminal(screen):
    out = screen()
    print_curves(LOSS, width=60)
    assert dots(out.text()) and "\x1b" not in out.text()


def test_a_terminal_has_colours_and_none_with_no_color(screen, monkeypatch):
    out = screen(terminal=True)
    print_curves(LOSS, width=60)
    assert COLOUR.search(out.text())
    monkeypatch.setenv("NO_COLOR", "1")
    out = screen(terminal=True)
    print_curves(LOSS, width=60)
    assert dots(out.text()) and not COLOUR.search(out.text())


@pytest.mark.parametrize("width", [30, 60, 100])
def test_no_line_is_longer_than_the_width(screen, width):
    out = screen()
    long = {name: Curve([1_000_000, 12_000_000], [-1.234e-100, -1.2e-100]) for name in ("train/a_quantity_with_a_long_name", "valid/another_one")}
    print_curves(LOSS | {"long": long}, width=width)
    lines = out.text().splitlines()
    assert max(map(len, lines)) <= width
    assert max(len(line) for line in lines if "│" in line) >= width - 1, "and the width is used"
    assert all("│" in line for line in lines if dots(line) > 2), "no line is broken"


def test_a_wide_terminal_is_used_up_to_100_columns(screen):
    out = screen()
    print_curves(LOSS, width=300)
    assert 90 < max(map(len, out.text().splitlines())) <= 100


@pytest.mark.parametrize(
    ("steps", "values"),
    [
        ([5], [0.5]),
        ([5], [0.0]),
        ([0, 9], [0.0, 0.0]),
        ([1, 2, 3], [7.0, 7.0, 7.0]),
        ([1, 2], [1e-300, 1e-300]),
        ([1, 2], [-1e38, 1e38]),
        ([3, 3], [1, 2]),
    ],
)
def test_single_points_constant_curves_and_extremes_are_drawn(screen, steps, values):
    out = screen()
    print_curves({"loss": {"train/loss": Curve(steps, values)}}, width=60)
    assert dots(out.text().partition("\n")[2]) >= 1


def test_of_values_that_are_not_finite_only_the_others_are_drawn(screen):
    out = screen()
    nan = float("nan")
    print_curves(
        {"loss": {"train/loss": Curve([1, 2, 3], [nan, 0.5, 0.25]), "valid/loss": Curve([1], [nan])}, "none": {"a": Curve([1], [nan])}}, width=60
    )
    drawn = out.text()
    assert "train/loss" in drawn and "valid/loss" not in drawn and "none" not in drawn
    assert drawn.splitlines()[-1].split() == ["step", "2", "3"]
