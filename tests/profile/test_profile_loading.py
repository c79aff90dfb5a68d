"""How long a batch takes to make: also where workers hide it."""

import itertools
from typing import Any

import pytest
import torch

from spending import TIME, Slow
from treadle.core.when import Duration, Progress
from treadle.data.loader import Loader
from treadle.data.sources import Batches
from treadle.profile.loading import BATCHES, LIMIT_S, measure

AT = Progress(Duration.parse("9 epochs"), 40, 5, 40, epochs=1, into_epoch=8)


class Told(Slow):
    """Says which items were asked for."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds, length=40)
        self.asked: list[int] = []

    def __getitem__(self, place: int) -> Any:
        self.asked.append(place)
        return super().__getitem__(place)


def test_what_workers_hide_is_measured_in_this_process() -> None:
    data = Told(0.01)
    found = measure(Loader(data, batch_size=8, workers=3, sampler="sequential"), AT, 0.5, TIME)
    assert (found.kind, found.workers, found.load_s, found.of_loader) == ("indexed", 3, pytest.approx(0.08), False)
    assert data.asked == [place % 40 for place in range(8, 8 + 8 * BATCHES)]  # those that follow


def test_a_batch_that_takes_long_is_not_made_again_and_again() -> None:
    data = Told(LIMIT_S)
    assert measure(Loader(data, batch_size=8, workers=1), AT, 0.0, TIME).load_s == pytest.approx(8 * LIMIT_S)
    assert len(data.asked) == 8


def test_without_workers_the_waiting_is_the_making() -> None:
    data = Told(1.0)
    assert measure(Loader(data, batch_size=8), AT, 0.5, TIME).load_s == 0.5
    assert data.asked == []


@pytest.mark.parametrize("data", [Batches([torch.zeros(8, 1)]), (torch.zeros(40, 1),)], ids=["batched", "tensors"])
def test_ready_made_batches_have_no_workers(data: Any) -> None:
    assert measure(Loader(data, batch_size=8), AT, 0.25, TIME).load_s == 0.25


def test_a_dataloader_brings_its_own_workers() -> None:
    found = measure(Loader(torch.utils.data.DataLoader(Told(0.0), batch_size=8, num_workers=2), batch_size=8), AT, 0.0, TIME)
    assert (found.workers, found.of_loader) == (2, True)


def test_a_loop_without_data_has_none() -> None:
    assert measure(None, AT, 0.0, itertools.count().__next__).kind == "none"
