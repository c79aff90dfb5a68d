"""Streams that say where they are: reading goes on there, from every position, and nothing is read twice."""

import itertools
import random

import datasets
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

import treadle
from treadle.checkpoint.tree import decode, encode
from treadle.core.errors import DataError
from treadle.core.structure import leaves
from treadle.data import Batches
from treadle.data.loader import Loader

LENGTH, EPOCHS = 11, 3


def sample(index):
    """It draws: what is seeded before each item has to be seeded just so after a resume too."""
    return torch.tensor([index, random.random(), torch.rand(()).item()], dtype=torch.float64)


class Counter(IterableDataset):
    """A stream with state: its position, and a generator of its own that shuffles each pass and goes on over them."""

    def __init__(self, length=LENGTH, make=sample):
        self.length, self.make = length, make
        self.generator, self.order, self.position = random.Random(3), [], 0
        self.read = 0  # items made by this object: no state

    def __iter__(self):
        if self.position == 0:
            self.order = self.generator.sample(range(self.length), self.length)
        while self.position < len(self.order):
            self.position += 1
            self.read += 1
            yield self.make(self.order[self.position - 1])
        self.position = 0

    def state_dict(self):
        return {"generator": self.generator.getstate(), "order": self.order, "position": self.position}

    def load_state_dict(self, state):
        self.generator.setstate(state["generator"])
        self.order, self.position = list(state["order"]), state["position"]


class Iterated(IterableDataset):
    """A stream whose iterator has the state; the order of a pass follows from its epoch."""

    def __init__(self, make=sample):
        self.make, self.epoch, self.read = make, 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return _Iterator(self)


class _Iterator:
    def __init__(self, owner):
        self.owner, self.position = owner, 0
        self.order = random.Random(owner.epoch).sample(range(LENGTH), LENGTH)

    def __iter__(self):
        return self

    def __next__(self):
        if self.position == LENGTH:
            raise StopIteration
        self.position += 1
        self.owner.read += 1
        return self.owner.make(self.order[self.position - 1])

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Plain(IterableDataset):
    """A stream without state."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        for index in range(LENGTH):
            self.read += 1
            yield sample(index)


def pair(index):
    return torch.stack([sample(index), sample(-index)])


def hugging_face():
    return datasets.Dataset.from_dict({"x": [float(x) for x in range(LENGTH)]}).to_iterable_dataset(num_shards=3)


STREAMS = {
    "stream": Counter,
    "iterator": Iterated,
    "datasets": lambda: hugging_face().with_format("torch"),
    "datasets, shuffled": lambda: hugging_face().shuffle(seed=3, buffer_size=1).with_format("torch"),
    "datasets, mapped": lambda: hugging_face().map(lambda row: {"y": row["x"] * 2 + random.random()}),
    "batches of a stream": lambda: Batches(Counter(make=pair)),
    "batches of an iterator": lambda: Batches(Iterated(make=pair)),
}


def seen(batch):
    return [leaf.tolist() for leaf in leaves(batch.parts)], batch.counts, batch.positions, batch.ends_epoch


def stored(mark):
    """A mark as it comes out of a checkpoint."""
    return decode(*encode(mark, "the data"))


def walked(make, **settings):
    """Each batch of some epochs, and where one would go on after it: epoch, position in it, mark."""
    found, epoch, into = [], 0, 0
    with_end = Loader(make(), **settings).batches(epochs=EPOCHS)
    for batch in with_end:
        epoch, into = (epoch + 1, 0) if batch.ends_epoch else (epoch, into + batch.positions)
        found.append((seen(batch), (epoch, into), stored(batch.mark)))
    return found


@pytest.mark.parametrize(("batch_size", "micro_batch", "drop_last"), [(1, None, False), (4, None, False), (4, 3, True), (11, 4, False), (6, 2, True)])
@pytest.mark.parametrize("name", STREAMS)
def test_going_on_from_any_position_gives_exactly_what_is_left(name, batch_size, micro_batch, drop_last):
    settings = {"batch_size": batch_size, "micro_batch": micro_batch, "drop_last": drop_last, "seed": 5}
    whole = walked(STREAMS[name], **settings)
    assert sum(batch[-1] for batch, *_ in whole) == EPOCHS
    for number, (_, place, mark) in enumerate(whole, 1):
        torch.rand(number)  # another process would have drawn something else by now
        rest = Loader(STREAMS[name](), **settings).batches(*place, mark=mark)
        left = len(whole) - number
        assert [seen(batch) for batch in itertools.islice(rest, left)] == [batch for batch, *_ in whole[number:]]


@pytest.mark.parametrize("name", [name for name in STREAMS if not name.startswith("batches")])
def test_the_same_with_a_worker_that_reads_ahead(name):
    settings = {"batch_size": 4, "seed": 5}
    whole = walked(STREAMS[name], **settings)
    assert [batch for batch, *_ in walked(STREAMS[name], workers=1, **settings)] == [batch for batch, *_ in whole]
    for number in (1, 3, 5):  # in an epoch, at its end, in the next
        (_, place, mark), left = whole[number - 1], 4
        rest = Loader(STREAMS[name](), workers=1, **settings).batches(*place, mark=mark)
        assert [seen(batch) for batch in itertools.islice(rest, left)] == [batch for batch, *_ in whole[number : number + left]]
        rest.close()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["stream", "iterator", "datasets"])
def test_a_mark_of_a_worker_is_that_of_this_process(name, workers):
    def marks(workers):
        return [({**mark, "seconds": 0}, place) for _, place, mark in walked(STREAMS[name], batch_size=4, workers=workers)]

    assert marks(workers) == marks(0)


@pytest.mark.parametrize("kind", [Counter, Iterated])
def test_nothing_is_read_again(kind):
    _, place, mark = walked(kind, batch_size=4)[1]
    data = kind()
    next(Loader(data, batch_size=4).batches(*place, mark=mark))
    assert data.read == 3, "the last three of the epoch"


def test_a_stream_without_state_is_read_again_and_gives_what_is_left():
    whole = walked(Plain, batch_size=4)
    _, place, mark = whole[1]
    data = Plain()
    rest = Loader(data, batch_size=4).batches(*place, mark=mark)
    assert [seen(next(rest)) for _ in range(3)] == [batch for batch, *_ in whole[2:5]]
    assert data.read > LENGTH


def test_a_stream_that_can_say_where_it_is_now_goes_on_from_a_mark_of_before_it_could():
    _, place, mark = walked(Plain, batch_size=4)[1]
    data = Iterated()
    batch = next(Loader(data, batch_size=4).batches(*place, mark=mark))
    assert data.read == LENGTH and batch.samples == 3


def test_a_mark_is_of_its_moment():
    """It is kept while the stream goes on."""
    batches = Loader(Counter(), batch_size=4).batches()
    first = next(batches)
    before = stored(first.mark)
    list(itertools.islice(batches, 5))
    assert first.mark == before


def test_a_mark_is_left_as_it_is_by_going_on_from_it():
    _, place, mark = walked(Counter, batch_size=4)[0]
    before = stored(mark)
    list(itertools.islice(Loader(Counter(), batch_size=4).batches(*place, mark=mark), 5))
    assert mark == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_has_come_to_its_end_for_good_says_so(workers):
    class Once(Counter):
        def __iter__(self):
            yield from super().__iter__()
            self.length = 0

    with pytest.raises(DataError, match=r"gave no .*batch in epoch 2"):
        list(Loader(Once(), batch_size=4, workers=workers).batches(epochs=2))


# --- a look at the first batch ---


@pytest.mark.parametrize("name", STREAMS)
def test_peek_leaves_a_stream_where_it_was(name):
    data, fresh = STREAMS[name](), STREAMS[name]()
    Loader(data, batch_size=4).peek()
    assert [seen(batch) for batch in Loader(data, batch_size=4).batches(epochs=2)] == [
        seen(batch) for batch in Loader(fresh, batch_size=4).batches(epochs=2)
    ]


# --- in a run ---


class Once(Exception):
    pass


def fit(folder, data, fail_at=None, every="1 step", seen=None, **settings):
    torch.manual_seed(0)
    config = treadle.Config(
        run_dir=str(folder),
        duration="3 epochs",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(every=every),
        log=treadle.LogConfig(console="plain", tensorboard=False),
    )

    def objective(model, batch):
        if seen is not None:
            seen.append(batch.flatten().tolist())
        return model(batch.float().reshape(-1, 1)).square().mean()

    model = nn.Linear(1, 1)
    trainer = treadle.Trainer(model, objective, data, optimizer=torch.optim.SGD, config=config, **settings)

    @trainer.on("step_finished")
    def fall_over(run):
        if run.progress.steps == fail_at:
            raise Once

    if fail_at is None:
        trainer.fit()
    else:
        with pytest.raises(Once):
            trainer.fit()
    return [value.tolist() for value in model.state_dict().values()]


KINDS = {"stream": Counter, "iterator": Iterated, "plain": Plain, "batches of a stream": lambda: Batches(Counter(make=pair))}


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", KINDS)
def test_a_run_that_goes_on_ends_as_one_that_was_never_interrupted(tmp_path, name, fail_at):
    expected = fit(tmp_path / "whole", KINDS[name]())
    fit(tmp_path / "run", KINDS[name](), fail_at=fail_at)
    assert fit(tmp_path / "run", KINDS[name]()) == expected


@pytest.mark.parametrize("fail_at", [1, 2, 5])
@pytest.mark.parametrize("every", ["1 step", "4 steps", "2 epochs"])
@pytest.mark.parametrize("name", KINDS)
def test_so_does_one_that_goes_on_in_the_same_process_with_the_same_data(tmp_path, name, every, fail_at):
    """As in a notebook: the stream stands somewhere else by now than the checkpoint says."""
    expected = fit(tmp_path / "whole", KINDS[name](), every=every)
    data = KINDS[name]()
    fit(tmp_path / "run", data, fail_at=fail_at, every=every)
    assert fit(tmp_path / "run", data, every=every) == expected


def test_a_run_says_what_a_stream_without_state_costs_and_one_with_state_costs_nothing(tmp_path, capsys):
    fit(tmp_path / "plain", Plain(), fail_at=2)
    assert "read again" not in capsys.readouterr().err
    fit(tmp_path / "plain", Plain())
    out = "".join(capsys.readouterr())
    assert "Plain has no state_dict() and load_state_dict(), so the first 4 samples of the epoch are read again" in out
    assert "that took 0.0 s before" in out
    for kind in (Counter, Iterated):
        fit(tmp_path / kind.__name__, kind(), fail_at=2)
        fit(tmp_path / kind.__name__, kind())
        assert "read again" not in "".join(capsys.readouterr())


def test_it_says_how_long_that_took(tmp_path):
    mark = {"seconds": 12.34, "owner": None, "state": None}
    assert Loader(Plain(), batch_size=4).way_back(8, mark).endswith("the run was; that took 12.3 s before")
    assert "the first 2 batches" in Loader(Batches(lambda: iter([torch.ones(2)])), batch_size=4).way_back(2, mark)
    for into, other in ((0, mark), (8, None), (8, {**mark, "owner": "stream"})):
        assert Loader(Plain(), batch_size=4).way_back(into, other) == ""
    assert Loader(torch.ones(8), batch_size=4).way_back(4, None) == ""
    assert Loader(Batches([torch.ones(2)] * 8), batch_size=4).way_back(4, mark) == ""


@pytest.mark.parametrize("data", [Counter, Iterated, lambda: Batches(Counter(make=pair)), lambda: Batches(Iterated(make=pair))])
def test_a_validation_set_with_state_is_read_from_its_beginning_each_time(tmp_path, data):
    seen = []

    def objective(model, batch):
        if not model.training:
            seen.append(len(batch))
        return model(batch.float().reshape(-1, 1)).square().mean()

    config = treadle.Config(
        run_dir=str(tmp_path),
        duration="2 epochs",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    train = torch.ones(8, 3, dtype=torch.float64)
    treadle.Trainer(nn.Linear(1, 1), objective, train, valid=data(), optimizer=torch.optim.SGD, config=config).fit()
    batches = len(list(Loader(data(), batch_size=4).batches(epochs=1)))
    assert len(seen) == 1 + 2 * batches, "one to try, and all of it after each epoch"
