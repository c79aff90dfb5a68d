"""Curves: from rows to panels of things that are compared."""

import pytest

from treadle.log.curves import Curve, Curves
from treadle.log.figure import draw, to_bytes
from treadle.log.sketch import print_curves


def row(step, **values):
    """A row; ``valid__loss`` stands for ``valid/loss``."""
    return {"step": step, "epoch": step / 10, "samples": step * 8, "wall": 0.0} | {name.replace("__", "/"): value for name, value in values.items()}


def collected(*rows):
    return Curves(rows)


def test_training_and_validation_of_one_thing_share_a_panel_and_the_loss_comes_first():
    every = row(5, train__epoch_loss=0.5, train__accuracy=0.8, valid__loss=0.6, valid__accuracy=0.7, test__loss=0.9, weights__norm=3.0)
    panels = collected(every | {"schedule/lr": 0.1}).panels()
    assert {name: list(curves) for name, curves in panels.items()} == {
        "loss": ["test/loss", "train/epoch_loss", "valid/loss"],
        "accuracy": ["train/accuracy", "valid/accuracy"],
        "lr": ["schedule/lr"],
        "weights/norm": ["weights/norm"],
    }
    assert next(iter(panels)) == "loss"


def test_each_curve_has_its_own_steps():
    panels = collected(row(2, train__loss=1.0), row(4, train__loss=0.9), row(5, valid__loss=0.8), row(6, train__loss=0.7)).panels()
    assert panels["loss"]["train/loss"] == Curve([2, 4, 6], [1.0, 0.9, 0.7])
    assert panels["loss"]["valid/loss"] == Curve([5], [0.8])


@pytest.mark.parametrize(("windows", "epochs", "shown"), [(9, 3, "train/loss"), (3, 9, "train/epoch_loss"), (3, 3, "train/epoch_loss")])
def test_of_the_means_over_windows_and_over_epochs_the_finer_is_shown(windows, epochs, shown):
    rows = [row(step, train__loss=1.0) for step in range(windows)] + [row(step, train__epoch_loss=1.0) for step in range(epochs)]
    assert list(collected(*rows).panels()["loss"]) == [shown]


def test_times_throughput_and_memory_are_left_out():
    curves = collected(row(1, train__loss=1.0, time__step_s=0.1, throughput__samples_per_s=9.0, memory__peak_gib=1.0))
    assert list(curves.panels()) == ["loss"] and list(curves.panels()["loss"]) == ["train/loss"]


def test_names_pick_and_pick_also_times_and_both_means():
    rows = [row(step, train__loss=1.0, valid__loss=1.0, time__step_s=0.1) for step in range(5)] + [row(5, train__epoch_loss=1.0)]
    panels = collected(*rows).panels(["time/step_s", "train/loss", "train/epoch_loss", "never/logged"])
    assert {name: list(curves) for name, curves in panels.items()} == {
        "loss": ["train/epoch_loss", "train/loss"],
        "time/step_s": ["time/step_s"],
    }


def test_texts_and_lists_are_no_curves_and_counters_neither():
    assert collected(row(1, note="text", several=[1.0, 2.0], nothing=None, value=2)).by_name == {"value": Curve([1], [2])}


@pytest.mark.parametrize("points", [1, 2, 1999, 2000, 2001, 4001, 123_457])
def test_a_long_curve_is_thinned_to_points_of_its_own_with_the_first_and_the_last(points):
    whole = Curve(list(range(points)), [float(step * step) for step in range(points)])
    thin = whole.thinned()
    assert len(thin.steps) <= 2001
    assert (thin.steps[0], thin.steps[-1]) == (0, points - 1)
    assert thin.steps == sorted(set(thin.steps))
    assert thin.values == [float(step * step) for step in thin.steps], "no value is averaged"
    assert points > 2000 or thin == whole


@pytest.mark.parametrize(("odd", "steps"), [(float("nan"), [3]), (-float("inf"), [1, 3]), (float("inf"), [1, 2, 3])])
def test_rows_that_are_not_finite_are_kept_and_break_neither_figure_nor_sketch(odd, steps, capsys):
    curves = collected(*(row(step, train__loss=odd if step in steps else 0.5) for step in (1, 2, 3)))
    panels = curves.panels()
    assert panels["loss"]["train/loss"].steps == [1, 2, 3]
    assert to_bytes(draw({"": panels}), "png").startswith(b"\x89PNG")
    print_curves(panels, width=60)
    drawn = capsys.readouterr().out
    assert ("train/loss" in drawn) == (len(steps) < 3), "what is finite is sketched"
