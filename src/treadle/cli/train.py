"""`treadle train FILE[:function] [--config f.yaml] [key=value ...]`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from treadle.cli.experiment import add_accept_argument, add_config_arguments, add_console_arguments, configured, load_experiment
from treadle.cli.main import exit_code
from treadle.log.tables import print_json

if TYPE_CHECKING:
    from treadle.core.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.usage = "treadle train FILE[:function] [key=value ...] [options]"
    parser.add_argument("target", metavar="FILE[:function]", help="a Python file; its function is `experiment` unless told")
    add_config_arguments(parser)
    add_accept_argument(parser)
    add_console_arguments(parser)
    parser.epilog = f"{parser.epilog}; treadle train FILE --help lists every key"
    parser.set_defaults(more_help=lambda target: load_experiment(target).keys())


def run(options: argparse.Namespace) -> int:
    """Build the experiment's trainer, and fit it."""
    experiment = load_experiment(options.target)
    config = configured(experiment, options)
    result = experiment.trainer(config).fit()
    report(result, options)
    return exit_code(result.status)


def report(result: Result, options: argparse.Namespace) -> None:
    """The last word about a run."""
    if options.json:
        values = {"status": result.status, "steps": result.steps, "epochs": result.epochs, "metrics": result.metrics}
        places = {name: None if path is None else str(path) for name, path in vars(result).items() if name in ("best", "last", "run_dir")}
        print_json(values | places)
    elif not options.quiet:
        again = "; start the same command again to go on" if exit_code(result.status) else ""
        print(f"{result.status} at epoch {result.epochs}, step {result.steps:,}; run folder: {result.run_dir}{again}")
