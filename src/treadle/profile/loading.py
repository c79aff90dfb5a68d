"""Loading: how long one process takes to make a batch; where workers hide it, it is measured apart from the steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from treadle.data.loader import Loader
from treadle.data.sources import Workers
from treadle.profile.measured import Data

BATCHES = 5
LIMIT_S = 5.0
"""No more time than this is spent after the first batch."""


def measure(loader: Loader | None, progress: Any, waited_s: float, now: Callable[[], float] = time.perf_counter) -> Data:
    """How data comes. Where there are workers, the next few batches are read in this process, and that is timed.

    Args:
        loader: that of the training data; None where there is none.
        progress: where the run is.
        waited_s: seconds a step for which the host waited for data; without workers it made the batch itself.
        now: gives seconds.

    Returns:
        how data comes; of data that workers read and that cannot be read at any position, no time is measured.
    """
    if loader is None:
        return Data()
    data = Data(loader.source.kind, loader.workers.count, of_loader=loader.source.workers is not None)
    if not data.workers:
        data.load_s = waited_s
        return data
    if data.kind != "indexed":
        return data
    here = copy(loader)
    here.workers = Workers(0)
    # Copying and preparing are phases of their own.
    here.device, here.source = torch.device("cpu"), replace(loader.source, prepare=None)
    took: list[float] = []
    with closing(here.batches(progress.epochs, progress.into_epoch)) as batches:
        began = start = now()
        for _ in islice(batches, BATCHES):
            took.append(now() - began)
            if now() - start > LIMIT_S:
                break
            began = now()
    data.load_s = sorted(took)[len(took) // 2]
    return data
