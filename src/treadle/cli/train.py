"""`treadle train FILE[:function] [--config f.yaml] [key=value ...]`."""

from __future__ import annotations

import argparse

from treadle.cli.experiment import add_config_arguments, configured, load_experiment
from treadle.cli.main import exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("target", metavar="FILE[:function]", help="a Python file; its function is `experiment` unless told")
    add_config_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Build the experiment's trainer, and fit it."""
    experiment = load_experiment(options.target)
    config = configured(experiment, options)
    result = experiment.trainer(config).fit(accept_changes=options.accept_changes, origin=experiment.origin)
    if not options.quiet:
        again = "; start the same command again to go on" if exit_code(result.status) else ""
        print(f"{result.status} at epoch {result.epochs}, step {result.steps:,}; run folder: {result.run_dir}{again}")
    return exit_code(result.status)
