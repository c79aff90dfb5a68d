"""`treadle predict RUN`: a model's outputs for a dataset, as a file."""

from __future__ import annotations

import argparse

from treadle.cli.evaluate import Trained, add_weight_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_weight_arguments(parser)
    parser.add_argument(
        "--to", metavar="FILE", required=True, help="where the outputs go, in the order of the data: FILE.npy, .safetensors, .jsonl or .csv"
    )


def run(options: argparse.Namespace) -> int:
    """Predict with the weights of a run."""
    from treadle.prediction.deliver import check_target
    from treadle.validation import only_data

    check_target(options.to)
    trained = Trained.of(options)
    path = trained.trainer.predict(only_data(trained.data), to=options.to)
    print(f"{path}: outputs of {trained.weights} for {options.data or 'the validation data'}")
    return 0
