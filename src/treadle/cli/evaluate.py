"""`treadle evaluate RUN`: the metrics of a run's weights on a dataset."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from treadle.cli.experiment import Experiment, load_experiment
from treadle.cli.show import add_run_argument, run_folder
from treadle.core.errors import ConfigError, UsageError
from treadle.log.tables import print_json, print_table
from treadle.system.folder import read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_run_argument(parser)
    parser.add_argument("--weights", default="best", help="best, last, or the path of a checkpoint (default: best, else last)")
    parser.add_argument(
        "--data", metavar="FUNCTION", help="a function of the experiment's file that gives the dataset; the validation data unless told"
    )
    fit = parser.add_mutually_exclusive_group()
    fit.add_argument("--strict", dest="strict", action="store_true", default=True, help="the weights must be the model's, each of them (default)")
    fit.add_argument("--partial", dest="strict", action="store_false", help="load those weights that are the model's, and leave the rest")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Build the trainer again from the run's own record, load weights, evaluate."""
    from treadle.checkpoint.restore import load_weights

    folder = run_folder(options.run)
    record = read_record(folder)
    if not record.get("origin"):
        raise UsageError(
            f"{options.run!r} does not say which function made it. Runs do whose trainer is built in `def experiment(config: MyConfig) -> "
            "treadle.Trainer`; of this one, use trainer.evaluate(data) in its script"
        )
    weights = _weights(folder, record, options.weights)
    experiment = load_experiment(record["origin"])
    trainer = experiment.trainer(_config_of(experiment, folder))
    load_weights(weights, trainer.model, strict=options.strict)
    data = experiment[options.data]() if options.data else trainer.valid
    if data is None:
        raise UsageError("this experiment has no validation data; name a function of its file that gives a dataset: --data FUNCTION")
    found = trainer.evaluate(data, values=trainer.keywords(record.get("values", {})))
    scores = {name: value for name, value in found.items() if isinstance(value, (int, float))}
    if options.json:
        print_json({"run": str(folder), "weights": str(weights), "data": options.data or "valid", **scores})
    else:
        print_table(f"{weights} on {options.data or 'valid'}", ["metric", "value"], [[name, f"{value:.6g}"] for name, value in scores.items()])
    return 0


def _config_of(experiment: Experiment, folder: Path) -> Any:
    try:
        return experiment.config(folder / "config.yaml")
    except ConfigError as error:
        error.add_note(f"{folder / 'config.yaml'} does not fit this code; if that was changed since, evaluate with the code that made the run")
        raise


def _weights(folder: Path, record: dict[str, Any], which: str) -> Path:
    if which not in ("best", "last"):
        return Path(which)
    name = record.get(which) or record.get("last")
    if name is None:
        raise UsageError(f"{str(folder)!r} has no checkpoint yet")
    return folder / str(name)
