"""The demo runs, on its real data; and the images are the originals."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import treadle_mnist

from treadle.cli import demo
from treadle.cli.main import main

RECIPE = Path(__file__).parents[2] / "recipes" / "lenet_mnist.py"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def test_the_model_is_lenet_5(recipe: dict[str, Any]) -> None:
    """32x32 in, 6 and 16 channels, 120-84-10: 61,706 parameters, as counted by hand."""
    model = recipe["LeNet5"]()
    assert [tuple(p.shape) for p in model.parameters() if p.ndim > 1] == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
    assert sum(p.numel() for p in model.parameters()) == 61_706
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_mnist_is_split_into_55000_and_5000_once_and_for_all(recipe: dict[str, Any]) -> None:
    (train_images, train_labels), (valid_images, valid_labels) = (split.dataset for split in recipe["train_and_valid"]())
    assert train_images.shape == (55_000, 28, 28) and valid_images.shape == (5_000, 28, 28)
    assert train_images.dtype == np.uint8
    labels = treadle_mnist.load("train")[1]
    assert np.array_equal(np.bincount(train_labels) + np.bincount(valid_labels), np.bincount(labels))
    again = [split.dataset for split in recipe["train_and_valid"]()]
    assert np.array_equal(again[0][1], train_labels) and np.array_equal(again[1][0], valid_images)
    assert recipe["test_set"]().dataset[0].shape == (10_000, 28, 28)


def test_the_model_sees_the_images_padded_to_32x32_and_scaled_to_one(recipe: dict[str, Any]) -> None:
    test = recipe["test_set"]()
    images, labels = test.prepare(tuple(torch.tensor(column[:5]) for column in test.dataset))
    expected = torch.zeros(5, 1, 32, 32)
    expected[:, 0, 2:30, 2:30] = torch.tensor(test.dataset[0][:5]).float() / 255
    torch.testing.assert_close(images, expected, rtol=1e-6, atol=0)
    assert labels.tolist() == [7, 2, 1, 0, 4]


def test_the_demo_trains_tests_once_and_says_where_everything_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "duration=40 steps", "evaluate.every=40 steps", "log.every=20 steps"]) == 0
    out = capsys.readouterr().out
    accuracy = float(next(line for line in out.splitlines() if line.startswith("test/accuracy")).split("\t")[1])
    assert accuracy > 0.5
    assert "run folder   results/lenet-mnist/001" in out and "treadle show results/lenet-mnist/001" in out
    assert json.loads(Path("results/lenet-mnist/001/run.json").read_text())["status"] == "finished"


def test_on_a_terminal_the_demo_draws_the_curves_however_short_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["demo", "duration=20 steps", "log.console=plain", "log.every=5 steps"]) == 0
    out = capsys.readouterr().out
    assert "train/loss" in out and "⠤" in out and "test/accuracy" in out


def test_a_second_demo_takes_the_next_folder() -> None:
    words = ["demo", "duration=2 steps", "evaluate.every=2 steps", "--quiet"]
    assert main(words) == 0
    assert main(words) == 0
    assert {path.name for path in Path("results/lenet-mnist").iterdir()} == {"001", "002"}


def test_without_the_images_the_demo_says_so_and_takes_the_small_digits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "treadle_mnist", None)
    assert main(["demo", "duration=2 epochs"]) == 0
    out = capsys.readouterr().out
    assert "treadle-mnist is not installed" in out and "1,797 digits" in out
    assert "test/accuracy" in out


def test_the_recipe_is_found_in_a_checkout() -> None:
    assert demo.recipe() == RECIPE


@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_the_images_are_whole(split: str, count: int) -> None:
    images, labels = treadle_mnist.load(split)
    assert images.shape == (count, 28, 28) and images.dtype == np.uint8
    assert labels.shape == (count,) and labels.dtype == np.int64 and set(labels.tolist()) == set(range(10))


def test_a_file_that_is_not_the_original_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(treadle_mnist.SHA256, "t10k-labels-idx1-ubyte", "0" * 64)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz is not the original: its SHA-256 is ff7b"):
        treadle_mnist.load("test")


def test_a_misspelt_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'valid'"):
        treadle_mnist.load("valid")
