"""`treadle demo`: LeNet-5 on MNIST, from an empty folder to a test score."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from treadle.cli.experiment import add_config_arguments, add_console_arguments, configured, load_experiment
from treadle.cli.main import exit_code
from treadle.cli.show import curves_of
from treadle.cli.train import report
from treadle.log.sketch import print_curves
from treadle.log.tables import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_config_arguments(parser)
    add_console_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Train the recipe, then look at the test set once, with the weights that were best on the validation set."""
    from treadle.checkpoint.restore import load_weights

    experiment = load_experiment(str(recipe()))
    trainer = experiment.trainer(configured(experiment, options))
    began = time.perf_counter()
    result = trainer.fit()
    seconds = time.perf_counter() - began
    if exit_code(result.status) or options.json or options.quiet:
        report(result, options)
        return exit_code(result.status)
    weights = result.best or result.last
    assert weights is not None, "a finished run has a last checkpoint"
    load_weights(weights, trainer.model)
    scores = trainer.evaluate(experiment["test_set"]())
    if sys.stdout.isatty():
        print_curves({what: curves for what, curves in curves_of(result.run_dir).items() if what in ("loss", "accuracy")})
    rows = [["test/accuracy", f"{scores['accuracy']:.4f}"], ["test/loss", f"{scores['loss']:.4f}"], ["seconds of training", f"{seconds:.1f}"]]
    print_table(f"test set, weights of {weights.name} ({'best on the validation set' if result.best else 'the last'})", ["", "value"], rows)
    print(f"run folder   {result.run_dir}")
    for what, command in (("look again", f"show {result.run_dir}"), ("a picture", f"plot {result.run_dir}"), ("TensorBoard", "board")):
        print(f"{what:<12} {_program()} {command}")
    return 0


def recipe() -> Path:
    """The recipe's file: in the wheel, or in a checkout."""
    package = Path(__file__).parents[1]
    places = [package / "recipes" / "lenet_mnist.py", package.parents[1] / "recipes" / "lenet_mnist.py"]
    return next(place for place in places if place.is_file())


def _program() -> str:
    """How to call this program from here."""
    beside = Path(sys.executable).with_name("treadle")
    return shlex.quote(str(beside.relative_to(Path.cwd()))) if beside.is_relative_to(Path.cwd()) else "treadle"
