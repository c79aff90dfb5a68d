"""`treadle check-data FILE[:function] [key=value ...]`: whether an experiment's splits are apart."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from treadle.cli.experiment import Experiment, add_config_arguments, add_console_arguments, configured, load_experiment
from treadle.core.errors import ConfigError, UsageError
from treadle.core.when import parse_seconds
from treadle.log.console import watching
from treadle.log.tables import print_json, print_table

if TYPE_CHECKING:
    from treadle.data.leaks import Leaks
    from treadle.data.loader import Loader
    from treadle.data.near import Near
    from treadle.trainer import Trainer

SHOWN = 5
"""Matches of a pair that stand in the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.usage = "treadle check-data FILE[:function] [key=value ...] [options]"
    parser.add_argument("target", metavar="FILE[:function]", help="a Python file; its function is `experiment` unless told")
    add_config_arguments(parser)
    parser.add_argument(
        "--test",
        metavar="FUNCTION",
        action="append",
        default=[],
        help="a function of the file that gives one more dataset, such as the test data, or the training data without augmentation; may be repeated",
    )
    parser.add_argument("--near", action="store_true", help="also look for items that are nearly the same: small images, vectors")
    parser.add_argument("--limit", metavar="TIME", type=_time, help='time for reading, such as "60 seconds"; all of it is read unless told')
    add_console_arguments(parser)
    parser.epilog = f"{parser.epilog}; exit code 1 where an item is in two splits"


def run(options: argparse.Namespace) -> int:
    """Build the experiment's trainer, read its data, and say what is in two splits."""
    from treadle.data.fingerprint import fingerprint
    from treadle.data.items import Viewer
    from treadle.data.leaks import find_leaks
    from treadle.data.near import find_near

    experiment = load_experiment(options.target)
    trainer = experiment.trainer(configured(experiment, options))
    loaders, seed = _loaders(experiment, trainer, options.test), trainer.config.seed
    style = "quiet" if options.quiet or options.json else trainer.config.log.console
    with ExitStack() as stack:
        viewers = {name: stack.enter_context(Viewer(loader, seed)) for name, loader in loaders.items()}
        prints = {name: fingerprint(viewer.loader, seed, viewer=viewer) for name, viewer in viewers.items()}
        with watching("reading items", style) as watch:
            leaks = find_leaks(loaders, options.limit, seed, watch=watch, viewers=viewers)
    near = None
    if options.near:
        with watching("comparing items", style) as watch:
            near = find_near(loaders, options.limit, seed, watch=watch)
    if options.json:
        nearly = {} if near is None else {"near": near.to_json()}
        print_json({"fingerprints": prints, **leaks.to_json(), "complete": leaks.complete, **nearly})
    else:
        _show(prints, leaks, near, options.quiet)
    return 1 if leaks.pairs else 0


def _time(text: str) -> float:
    try:
        return parse_seconds(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _loaders(experiment: Experiment, trainer: Trainer, functions: list[str]) -> dict[str, Loader]:
    """The splits: what the trainer has, and what further functions give."""
    import torch

    from treadle.evaluation import evaluation_loader
    from treadle.validation import splits as validation_splits

    splits: dict[str, Any] = {"train": trainer.data, **validation_splits(trainer.valid), "test": trainer.test}
    for name in functions:
        if name in splits and splits[name] is not None:
            raise UsageError(f"--test {name}: there is a split of this name already; give the function another name")
        splits[name] = experiment[name]()
    given = {name: data for name, data in splits.items() if data is not None}
    if len(given) < 2:
        raise UsageError(
            "there is nothing to compare the training data with: the trainer has neither valid nor test data; "
            "name a function of the file that gives a dataset: --test FUNCTION"
        )
    return {name: evaluation_loader(data, trainer.config, torch.device("cpu")) for name, data in given.items()}


def _show(prints: dict[str, dict[str, Any]], leaks: Leaks, near: Near | None, quiet: bool) -> None:
    if not quiet:
        rows = []
        for name, one in leaks.coverage.items():
            facts = prints[name]
            total = "unknown" if one.total is None else f"{one.total:,}"
            item = facts.get("item") or facts.get("error") or facts["kind"]
            rows.append([name, facts["type"], item, total, f"{one.read:,}", "yes" if one.random else "no", f"{one.repeated:,}"])
        print_table("splits", ["split", "data", "item", "items", "read", "random", "repeated inside"], rows)
        for note in leaks.notes:
            print(note)
    if leaks.pairs:
        rows = []
        for pair in leaks.pairs:
            named = ", ".join(f"{mine} = {theirs}" for mine, theirs in pair.matches[:SHOWN]) + (", ..." if pair.count > SHOWN else "")
            rows.append([f"{pair.one} = {pair.other}", pair.kind, f"{pair.count:,}", named])
        print_table("in two splits", ["splits", "what", "items", "such as"], rows)
    elif not quiet:
        found = "no item is in two splits" if leaks.complete else "no item was found in two splits, of those that could be compared"
        print(f"{found}; {leaks.covered}")
    if near is not None and near.pairs:
        rows = [[f"{one.one} {one.mine:,}", f"{one.other} {one.theirs:,}", f"{one.score:.4f}"] for one in near.pairs]
        print_table("nearly the same", ["item", "item", "correlation"], rows)
    if near is not None and not quiet:
        for note in near.notes:
            print(note)
