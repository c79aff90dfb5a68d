"""The check of a run's data before it trains: which data it is, and whether what is evaluated was trained on.

What was found is kept in the run folder under the fingerprints, so that a run that goes on does not look again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from treadle.config.schema import DataConfig
from treadle.core.errors import DataError
from treadle.core.when import parse_seconds
from treadle.data.fingerprint import differences, fingerprint
from treadle.data.items import Viewer
from treadle.data.leaks import SAME_ITEM, Leaks, Pair, find_leaks
from treadle.data.loader import Loader
from treadle.system.files import make_folder, write_json

SHOWN = 3
"""Matches that are named in a warning."""


def check(loaders: Mapping[str, Loader], config: DataConfig, seed: int, kept: Path, say: Callable[[str], object]) -> dict[str, dict[str, Any]]:
    """Take the fingerprints of splits, and look for items that are in two of them.

    Args:
        loaders: the splits by name, those that are trained on first.
        config: what to do about leaks, and for how long to look.
        seed: the run's seed.
        kept: where the result is kept, ``provenance/leaks.json`` of the run folder.
        say: shows a line.

    Returns:
        the fingerprint of each split.

    Raises:
        DataError: there are leaks, and ``config.leaks`` is "refuse".
    """
    with ExitStack() as stack:
        viewers = {name: stack.enter_context(Viewer(loader, seed)) for name, loader in loaders.items()}
        prints = {name: fingerprint(viewer.loader, seed, viewer=viewer) for name, viewer in viewers.items()}
        if config.leaks == "off" or len(loaders) < 2:
            return prints
        limit = parse_seconds(config.leaks_limit)
        leaks = _known(kept, prints, limit)
        if leaks is None:
            leaks = find_leaks(loaders, limit, seed, viewers=viewers)
            _keep(kept, prints, limit, leaks)
    warnings = [in_words(pair, leaks) for pair in leaks.pairs]
    if warnings and config.leaks == "refuse":
        raise DataError(
            "the splits are not apart: " + "; ".join(warnings) + "\ntake them out of one of the splits, "
            "list them all with `treadle check-data FILE`, or set data.leaks=warn to train all the same"
        )
    for line in [*(f"warning: {line}" for line in warnings), *leaks.notes]:
        say(line)
    if any(one.read != one.total and not one.random and one.total is not None for one in leaks.coverage.values()):
        say(f"leaks between splits: {leaks.covered}; data.leaks_limit={config.leaks_limit!r} is the time for it, `treadle check-data FILE` reads all")
    return prints


def in_words(pair: Pair, leaks: Leaks, shown: int = SHOWN) -> str:
    """A leak in a sentence.

    Example:
        >>> from treadle.data.leaks import Coverage
        >>> leaks = Leaks((), {"train": Coverage(9, 9), "valid": Coverage(5, 5)})
        >>> in_words(Pair("train", "valid", SAME_ITEM, 1, ((7, 3),)), leaks)
        '1 of the 5 valid items is in the train data too (train 7 = valid 3)'
    """
    covered = leaks.coverage.get(pair.other)
    of = f" of the {covered.total:,}" if covered is not None and covered.total is not None else ""
    named = [f"{pair.one} {mine} = {pair.other} {theirs}" for mine, theirs in pair.matches[:shown]]
    more = ", ..." if pair.count > len(named) else ""
    one = pair.count == 1
    what = f"{'is' if one else 'are'} in" if pair.kind == SAME_ITEM else f"{'has its' if one else 'have their'} input, with another target, in"
    return f"{pair.count:,}{of} {pair.other} items {what} the {pair.one} data too ({', '.join(named)}{more})"


def _known(kept: Path, prints: Mapping[str, dict[str, Any]], limit: float) -> Leaks | None:
    """What was found before in this very data; None where it has to be looked for."""
    try:
        facts = json.loads(kept.read_text(encoding="utf-8"))
        before, leaks = facts["data"], Leaks.from_json(facts["leaks"])
        same = list(before) == list(prints) and not any(differences(before[name], prints[name]) for name in prints)
        enough = leaks.complete or float(facts["limit_seconds"]) >= limit
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return leaks if same and enough else None


def _keep(kept: Path, prints: Mapping[str, dict[str, Any]], limit: float, leaks: Leaks) -> None:
    try:
        make_folder(kept.parent)
        write_json(kept, {"format": 1, "limit_seconds": limit, "data": prints, "leaks": leaks.to_json()})
    except OSError:  # it is looked for again, that is all
        return
