"""One batch ahead: what is begun and taken when, seen through a copier that writes it down, and through a stand-in for CUDA."""

from contextlib import contextmanager

import pytest
import torch

from treadle.data.ahead import SideStream, one_ahead
from treadle.data.batch import Batch
from treadle.data.loader import Loader


class Diary:
    """A copier, and batches, that write down what happens."""

    def __init__(self):
        self.lines = []

    def batches(self, ends):
        """Batches 0, 1, ... of which some end an epoch."""
        for number, ends_epoch in enumerate(ends):
            self.lines.append(f"read {number}")
            yield Batch([number], [1], 1, ends_epoch)

    def begin(self, batch):
        self.lines.append(f"begin {batch.parts[0]}")
        return batch

    def finish(self, coming):
        self.lines.append(f"finish {coming.parts[0]}")
        return coming

    def take(self, ends):
        for batch in one_ahead(self.batches(ends), self):
            self.lines.append(f"use {batch.parts[0]}")
        return self.lines


def test_the_next_copy_is_begun_before_a_batch_is_used():
    lines = Diary().take([False, False, True])
    assert lines == [
        *("read 0", "begin 0", "read 1", "begin 1", "finish 0", "use 0"),
        *("read 2", "begin 2", "finish 1", "use 1"),
        *("finish 2", "use 2"),
    ]


def test_nothing_is_read_past_the_end_of_an_epoch_before_it_is_asked_for():
    lines = Diary().take([False, True, False, True])
    assert lines.index("use 1") < lines.index("read 2")


@pytest.mark.parametrize("ends", [[], [False], [True], [True, True, False], [False] * 4])
def test_every_batch_comes_once_and_in_order(ends):
    assert [batch.parts[0] for batch in one_ahead(Diary().batches(ends), Diary())] == list(range(len(ends)))


def test_at_most_one_batch_is_on_its_way_beside_the_one_in_use():
    lines = Diary().take([False] * 20)
    begun = [sum(line.startswith("begin") for line in lines[:place]) for place, line in enumerate(lines) if line.startswith("use")]
    assert max(count - number for number, count in enumerate(begun)) == 2


def test_an_error_in_what_is_ahead_is_raised_where_that_batch_would_have_come():
    def broken():
        yield Batch([0], [1], 1, False)
        raise ZeroDivisionError

    ahead = one_ahead(broken(), Diary())
    assert next(ahead).parts == [0]
    with pytest.raises(ZeroDivisionError):
        next(ahead)


def test_what_is_taken_says_where_it_stands_and_not_where_the_reader_is():
    """A checkpoint of step n is made of batch n: reading goes on from there as if nothing had been ahead."""
    data = (torch.arange(10.0),)
    ahead = one_ahead(Loader(data, batch_size=3, seed=1).batches(), Diary())
    into = 0
    for expected in Loader(data, batch_size=3, seed=1).batches(epochs=1):
        batch = next(ahead)
        assert (batch.ids.tolist(), batch.positions, batch.ends_epoch) == (expected.ids.tolist(), expected.positions, expected.ends_epoch)
        into += batch.positions
        if not batch.ends_epoch:
            following = next(Loader(data, batch_size=3, seed=1).batches(0, into))
            assert not set(following.ids.tolist()) & set(batch.ids.tolist())


# --- the copier ---


class FakeCuda:
    """Streams and events that say in which order the device would do things."""

    def __init__(self):
        self.lines = []
        self._now = "compute"

    def Stream(self, device):
        return "side"

    def Event(self):
        lines = self.lines

        class Event:
            def record(self, stream):
                lines.append(f"record on {stream}")

        return Event()

    @contextmanager
    def stream(self, stream):
        before, self._now = self._now, stream
        yield
        self._now = before

    def current_stream(self, device):
        lines = self.lines

        class Current:
            def wait_event(self, event):
                lines.append("compute waits")

        return Current()


class Tensor(torch.Tensor):
    """A tensor of the host that says when it is moved."""

    cuda = None

    def pin_memory(self):
        return self  # as torch does where it is pinned already

    def to(self, device, non_blocking=False):
        assert non_blocking
        self.cuda.lines.append(f"copy on {self.cuda._now}")
        return self

    def record_stream(self, stream):
        self.cuda.lines.append("kept for compute")


def test_a_copy_is_on_the_side_stream_and_the_computing_one_waits_for_it_on_the_device():
    cuda = FakeCuda()
    column = torch.zeros(2).as_subclass(Tensor)
    column.cuda = cuda
    copier = SideStream(torch.device("cuda"), cuda)
    coming = copier.begin(Batch([(column, "a name")], [2], 2, False, mark={"seconds": 1.0}))
    assert cuda.lines == ["copy on side", "record on side"]
    cuda.lines.clear()
    batch = copier.finish(coming)
    assert cuda.lines[:2] == ["compute waits", "kept for compute"]
    assert batch.parts[0][1] == "a name" and batch.mark == {"seconds": 1.0}
    # The host's memory is held until the batch is taken; after that torch's own allocator knows of the copy.
    assert coming.host.parts[0][0] is column


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_on_a_gpu_every_batch_is_what_it_is_on_the_host_and_nothing_waits(workers):
    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return 4096

        def __getitem__(self, index):
            return torch.full((64, 64), float(index)), index

    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = Loader(Pairs(), batch_size=256, workers=workers, device=torch.device("cuda", 0)).batches(epochs=1)
        sums = [(batch.ids.sum(), batch.parts[0][0].mean((1, 2)).sum()) for batch in batches]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [int(total) for total, _ in sums] == [int(total) for _, total in sums]
