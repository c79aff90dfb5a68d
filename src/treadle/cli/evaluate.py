"""`treadle evaluate RUN`: the metrics of a run's weights on a dataset."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from treadle.cli.experiment import Experiment, load_experiment
from treadle.cli.show import add_run_argument, run_folder
from treadle.core.errors import ConfigError, UsageError
from treadle.log.tables import print_json, print_table
from treadle.system.folder import read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_weight_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """What a verb takes that uses the weights of a run."""
    add_run_argument(parser)
    parser.add_argument(
        "--weights",
        default="best",
        help="best, last, the path of a checkpoint, or a set of averaged weights such as ema, also last:ema (default: best, else last)",
    )
    parser.add_argument(
        "--data", metavar="FUNCTION", help="a function of the experiment's file that gives the dataset; the validation data unless told"
    )
    fit = parser.add_mutually_exclusive_group()
    fit.add_argument("--strict", dest="strict", action="store_true", default=True, help="the weights must be the model's, each of them (default)")
    fit.add_argument("--partial", dest="strict", action="store_false", help="load those weights that are the model's, and leave the rest")


def run(options: argparse.Namespace) -> int:
    """Evaluate the weights of a run."""
    trained = Trained.of(options)
    found = trained.trainer.evaluate(trained.data, values=trained.values)
    scores = {name: value for name, value in found.items() if isinstance(value, (int, float))}
    if options.json:
        print_json({"run": str(trained.folder), "weights": trained.weights, "data": options.data or "valid", **scores})
    else:
        print_table(
            f"{trained.weights} on {options.data or 'valid'}", ["metric", "value"], [[name, f"{value:.6g}"] for name, value in scores.items()]
        )
    return 0


@dataclass(frozen=True)
class Trained:
    """A trainer that was built again from a run's own record, with weights of the run, and data for it.

    Args:
        folder: of the run.
        trainer: with the weights loaded.
        weights: which these are.
        data: what to go over.
        values: the last schedule values, for the objective.
    """

    folder: Path
    trainer: Any
    weights: str
    data: Any
    values: dict[str, float]

    @classmethod
    def of(cls, options: argparse.Namespace) -> Trained:
        """Build the trainer, load the weights, make the data."""
        folder = run_folder(options.run)
        record = read_record(folder)
        if not record.get("origin"):
            raise UsageError(
                f"{options.run!r} does not say which function made it. Runs do whose trainer is built in `def experiment(config: MyConfig) -> "
                "treadle.Trainer`; of this one, use trainer.evaluate(data) in its script"
            )
        path, name = _weights(folder, record, options.weights)
        experiment = load_experiment(record["origin"])
        trainer = experiment.trainer(_config_of(experiment, folder))
        _load(path, name, trainer.model, options.strict)
        data = experiment[options.data]() if options.data else trainer.valid
        if data is None:
            raise UsageError("this experiment has no validation data; name a function of its file that gives a dataset: --data FUNCTION")
        said = str(path) if name == "model" else f"{path}:{name}"
        return cls(folder, trainer, said, data, trainer.keywords(record.get("values", {})))


def _load(path: Path, name: str, model: Any, strict: bool) -> None:
    """Load weights into a model, or into each of several by name."""
    from treadle.checkpoint.restore import load_weights

    for key, one in model.items() if isinstance(model, Mapping) else [("", model)]:
        load_weights(path, one, name=f"{name}-{key}" if key else name, strict=strict)


def _config_of(experiment: Experiment, folder: Path) -> Any:
    try:
        return experiment.config(folder / "config.yaml")
    except ConfigError as error:
        error.add_note(f"{folder / 'config.yaml'} does not fit this code; if that was changed since, evaluate with the code that made the run")
        raise


def _weights(folder: Path, record: dict[str, Any], which: str) -> tuple[Path, str]:
    """A checkpoint, and the name of a set of weights in it."""
    place, _, name = which.partition(":")
    if which.isidentifier() and which not in ("best", "last") and not Path(which).exists():
        place, name = "best", which
    if place not in ("best", "last"):
        return Path(which), "model"
    found = record.get(place) or record.get("last")
    if found is None:
        raise UsageError(f"{str(folder)!r} has no checkpoint yet")
    return folder / str(found), name or "model"
