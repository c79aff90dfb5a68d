"""The figure: curves as a file, the same bytes each time, and matplotlib left as it was found."""

import re
import sys

import matplotlib
import pytest

from treadle.core.errors import UsageError
from treadle.log.curves import Curves
from treadle.log.figure import FORMATS, draw, save, to_bytes

STARTS = {"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!doctype html>", "pdf": b"%PDF"}


def panels(scale=1.0, name="train/loss"):
    curves = Curves()
    for step in range(1, 6):
        curves.add({"step": step, name: scale / step, "valid/loss": scale / step + 0.1, "valid/accuracy": 1 - 0.5 / step})
    return curves.panels()


def legends(figure):
    found = {axes.get_title(): axes.get_legend() for axes in figure.axes}
    return {title: [text.get_text() for text in legend.get_texts()] if legend else [] for title, legend in found.items()}


def test_one_run_has_a_panel_for_each_thing_and_a_colour_for_each_curve():
    figure = draw({"": panels()})
    assert legends(figure) == {"loss": ["train/loss", "valid/loss"], "accuracy": ["valid/accuracy"]}
    first, second = figure.axes[0].lines
    assert first.get_color() != second.get_color()
    assert list(first.get_xdata()) == [1, 2, 3, 4, 5] and list(first.get_ydata()) == [1 / step for step in range(1, 6)]


def test_of_several_runs_each_has_a_colour_and_training_is_dashed():
    figure = draw({"a": panels(), "b": panels(2.0)})
    assert legends(figure)["loss"] == ["a: train/loss", "a: valid/loss", "b: train/loss", "b: valid/loss"]
    train_a, valid_a, train_b, valid_b = figure.axes[0].lines
    assert train_a.get_color() == valid_a.get_color() != train_b.get_color() == valid_b.get_color()
    assert train_a.get_linestyle() == train_b.get_linestyle() == "--" and valid_a.get_linestyle() == valid_b.get_linestyle() == "-"


def test_a_run_that_lacks_a_panel_is_left_out_of_it():
    figure = draw({"a": panels(), "b": {"loss": panels()["loss"]}})
    assert legends(figure)["accuracy"] == ["a: valid/accuracy"]


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_written_and_equal_curves_give_equal_bytes(kind, tmp_path):
    save(draw({"": panels()}), tmp_path / "new" / f"one.{kind}")
    save(draw({"": panels()}), tmp_path / f"two.{kind.upper()}")
    save(draw({"": panels(1.5)}), tmp_path / f"other.{kind}")
    one, two, other = ((tmp_path / name).read_bytes() for name in (f"new/one.{kind}", f"two.{kind.upper()}", f"other.{kind}"))
    assert one.startswith(STARTS[kind])
    assert one == two != other
    assert {path.name for path in tmp_path.rglob("*")} == {"new", f"one.{kind}", f"two.{kind.upper()}", f"other.{kind}"}


def test_html_needs_nothing_from_elsewhere():
    page = to_bytes(draw({"": panels()}), "html").decode()
    references = re.findall(r"(?:href|src)\s*=\s*[\"']([^\"']*)", page) + re.findall(r"url\(\s*[\"']?([^)\"']*)", page)
    assert references and all(one.startswith("#") for one in references)
    assert not re.search(r"<script|<link|<iframe|@import|<!ENTITY", page)
    assert "loss" in page and page.rstrip().endswith("</svg>")


@pytest.mark.parametrize("name", ["curves.jpg", "curves", "curves.svgz", "png"])
def test_another_ending_is_refused_with_what_is_allowed(name, tmp_path):
    with pytest.raises(UsageError, match=re.escape(f"{name}': its name must end in .png, .svg, .html, .pdf")):
        save(draw({"": panels()}), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_message_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    for place in (tmp_path / "file" / "curves.png", tmp_path / "folder.png"):
        with pytest.raises(UsageError, match=f"cannot write '{place}': "):
            save(draw({"": panels()}), place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]
    assert (tmp_path / "file").read_text() == "mine"


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"needs matplotlib, which is not installed: pip install 'treadle\[plot\]'"):
        draw({"": panels()})


def test_matplotlib_is_left_as_it_was_found_and_pyplot_is_not_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    settings = {name: dict.__getitem__(matplotlib.rcParams, name) for name in matplotlib.rcParams}  # asking for the backend would choose one
    for kind in FORMATS:
        to_bytes(draw({"": panels()}), kind)
    assert {name: dict.__getitem__(matplotlib.rcParams, name) for name in matplotlib.rcParams} == settings
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("name", ["_hidden", "$\\oops$"])
def test_any_name_of_a_value_and_of_a_run_is_drawn_as_it_is(name):
    """Neither matplotlib's hidden labels nor its formulas."""
    one, several = draw({"": panels(name=name)}), draw({name: panels(), "b": panels()})
    assert legends(one)[name] == [], "the title says it"
    assert legends(several)["loss"] == [f"{name}: train/loss", f"{name}: valid/loss", "b: train/loss", "b: valid/loss"]
    for figure in (one, several):
        assert f"<!-- {name}" in to_bytes(figure, "svg").decode()
