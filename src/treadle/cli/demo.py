"""`treadle demo`: LeNet-5 on MNIST, from an empty folder to a test score."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import treadle
from treadle.cli.experiment import add_config_arguments, configured, load_experiment
from treadle.cli.main import exit_code
from treadle.log.tables import print_table
from treadle.system.folder import DONE, read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_config_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Train the recipe, then look at the test set once, with the weights that were best on the validation set."""
    experiment = load_experiment(str(recipe()))
    config = configured(experiment, options)
    if not any(text.startswith("run_dir=") for text in options.overrides) and not options.accept_changes:
        config = replace(config, run_dir=_free(config.run_dir))
    trainer = experiment.trainer(config)
    began = time.perf_counter()
    result = trainer.fit(accept_changes=options.accept_changes, origin=experiment.origin)
    seconds = time.perf_counter() - began
    if exit_code(result.status):
        print(f"{result.status}; start the same command again to go on")
        return exit_code(result.status)
    weights = result.best or result.last
    assert weights is not None, "a finished run has a last checkpoint"
    treadle.load_weights(weights, trainer.model)
    scores = trainer.evaluate(experiment["test_set"]())
    rows = [["test/accuracy", f"{scores['accuracy']:.4f}"], ["test/loss", f"{scores['loss']:.4f}"], ["seconds of training", f"{seconds:.1f}"]]
    print_table(f"test set, weights of {weights.name} ({'best on the validation set' if result.best else 'the last'})", ["", "value"], rows)
    print(f"run folder:   {result.run_dir}")
    print(f"TensorBoard:  {_tensorboard(result.run_dir)}")
    return 0


def recipe() -> Path:
    """The recipe's file: in the wheel, or in a checkout."""
    package = Path(treadle.__file__).parent
    places = [package / "recipes" / "lenet_mnist.py", package.parents[1] / "recipes" / "lenet_mnist.py"]
    return next(place for place in places if place.is_file())


def _free(run_dir: str) -> str:
    """The folder, or where a finished demo lies in it, the next number that is free or can go on."""
    number, name = 2, run_dir
    while read_record(Path(name)).get("status") in DONE:
        name, number = f"{run_dir}-{number}", number + 1
    return name


def _tensorboard(run_dir: Path) -> str:
    beside = Path(sys.executable).with_name("tensorboard")
    program = beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside
    return f"{shlex.quote(str(program))} --logdir {shlex.quote(str(run_dir))} --load_fast=false"
