"""Preparation of whole batches: the same wherever the data is read, however it is cut, and after a resume."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import treadle
from treadle.core.errors import DataError, ObjectiveError
from treadle.data import Images, Samples
from treadle.data.fingerprint import fingerprint
from treadle.data.loader import Loader

X, Y = torch.arange(40, dtype=torch.uint8).view(10, 2, 2), torch.arange(10)


class Map(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


SOURCES = {"tensors": (X, Y), "arrays": (X.numpy(), Y.numpy()), "TensorDataset": TensorDataset(X, Y), "map": Map(), "stream": Stream()}


def half(batch):
    x, y = batch
    return x.float() / 2, y


def noisy(batch, draw):
    x, y = batch
    return x.flatten(1) + draw(4), y, draw(1)


def read(data, epochs=2, epoch=0, into=0, **settings):
    """Every sample's values by epoch, as lists of rows in their order."""
    batches = Loader(data, **{"batch_size": 4, "seed": 3, **settings}).batches(epoch, into, epochs=epochs)
    return [tuple(torch.cat(columns) for columns in zip(*batch.parts, strict=True)) for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_samples_is_prepared(source, workers):
    found = read(Samples(SOURCES[source], prepare=half), workers=workers, epochs=1)
    for x, y in found:
        assert torch.equal(x, X[y].float() / 2)
    assert sorted(torch.cat([y for _, y in found]).tolist()) == Y.tolist()


def test_a_function_is_given_the_whole_batch_and_what_it_makes_is_cut():
    sizes = []

    def seen(batch):
        sizes.append(len(batch[0]))
        return half(batch)

    for source in (SOURCES["tensors"], SOURCES["map"], SOURCES["stream"]):
        batches = list(Loader(Samples(source, prepare=seen), batch_size=4, micro_batch=3).batches(epochs=1))
        assert [batch.counts for batch in batches] == [[3, 1], [3, 1], [2]]
        assert [len(part[0]) for part in batches[0].parts] == [3, 1] and batches[0].samples == 4
    assert sizes == [4, 4, 2] * 3


def by_sample(found):
    """What each sample became, by epoch and label."""
    rows = {}
    for number, batch in enumerate(found):
        for x, y, extra in zip(*batch, strict=True):
            rows[number >= len(found) // 2, int(y)] = (x.tolist(), extra.tolist())
    assert len(rows) == 20
    return rows


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 3}, {"batch_size": 10}, {"sampler": "sequential"}], ids=str)
@pytest.mark.parametrize("source", ["tensors", "map"])
def test_numbers_drawn_for_a_sample_belong_to_it_and_to_nothing_else(source, settings):
    assert by_sample(read(Samples(SOURCES[source], prepare=noisy), **settings)) == by_sample(read(Samples(SOURCES["tensors"], prepare=noisy)))


def test_numbers_drawn_for_a_stream_do_not_depend_on_who_reads_it():
    assert by_sample(read(Samples(Stream(), prepare=noisy), workers=1)) == by_sample(read(Samples(Stream(), prepare=noisy)))


@pytest.mark.parametrize("source", SOURCES)
def test_from_any_position_the_numbers_are_those_that_stand_there(source):
    data = Samples(SOURCES[source], prepare=noisy)
    expected = read(data)
    for number, (epoch, into) in enumerate([(0, 0), (0, 4), (0, 8), (1, 0), (1, 4)]):
        found = read(data, epoch=epoch, into=into, epochs=2 - epoch)
        assert all(torch.equal(a, b) for one, other in zip(found, expected[number:], strict=True) for a, b in zip(one, other, strict=True))


def test_every_number_is_another_one_and_they_are_uniform():
    batches = Loader(Samples((torch.arange(5000),), prepare=lambda batch, draw: (draw(2), draw(1))), batch_size=500).batches(epochs=2)
    numbers = torch.cat([torch.cat(batch.parts[0], dim=1) for batch in batches])
    assert numbers.shape == (10_000, 3) and numbers.min() >= 0 and numbers.max() < 1
    # 24 bits: of 30,000 numbers about 27 meet another by chance.
    assert numbers.unique().numel() > 29_900
    assert (numbers.mean(0) - 0.5).abs().max() < 0.012 and (numbers.var(0) - 1 / 12).abs().max() < 0.004
    assert np.abs(np.corrcoef(numbers.T.numpy()) - np.eye(3)).max() < 0.04


def test_another_seed_draws_other_numbers():
    one, other = (read(Samples((X, Y), prepare=noisy), seed=seed, sampler="sequential", epochs=1) for seed in (0, 1))
    assert not (one[0][2] == other[0][2]).any()


def test_looking_at_a_first_batch_moves_no_generator():
    loader = Loader(Samples((X, Y), prepare=lambda batch: (torch.rand(3), batch[1])), batch_size=4)
    before = torch.get_rng_state()
    loader.peek()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_is_of_the_raw_data():
    plain, ready = (fingerprint(Loader(data, batch_size=4), seed=0) for data in ((X, Y), Samples((X, Y), prepare=half)))
    assert plain == ready and plain["item"] == "(uint8[2, 2], int64[])"


# --- what is refused ---


@pytest.mark.parametrize(
    ("prepare", "micro_batch", "message"),
    [
        (lambda batch: None, None, "gave None for a batch; prepare has to return the batch"),
        (
            lambda batch: (torch.cat([batch[0]] * 2), torch.cat([batch[1]] * 2)),
            2,
            "made 8 samples of 4, so the batch cannot be cut by machine",
        ),
    ],
    ids=["nothing", "twice as many"],
)
def test_what_cannot_be_a_batch_is_refused(prepare, micro_batch, message):
    with pytest.raises(DataError, match=message):
        next(Loader(Samples((X, Y), prepare=prepare), batch_size=4, micro_batch=micro_batch).batches())


def test_what_is_no_function_is_refused():
    with pytest.raises(DataError, match=r"prepare must be a function of a batch, such as treadle\.data\.Images.*got 32"):
        Loader(Samples((X, Y), prepare=32), batch_size=4)


def test_an_error_says_whose_it_is_and_of_which_batch():
    def broken(batch):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        next(Loader(Samples((X, Y), prepare=broken), batch_size=4).batches())
    assert error.value.__notes__ == [f"raised while {broken.__qualname__} prepared a batch of (uint8[4, 2, 2], int64[4])"]


# --- a run ---


def fit(run_dir, data, duration="2 epochs", **settings):
    quiet = treadle.LogConfig(console="quiet")
    trainer = treadle.Trainer(
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 10)),
        nn.CrossEntropyLoss(),
        data,
        valid=data,
        optimizer=torch.optim.SGD,
        config=treadle.Config(run_dir=str(run_dir), duration=duration, batch_size=4, log=quiet, data=treadle.DataConfig(leaks="off"), **settings),
    )
    result = trainer.fit()
    return trainer, result


def from_the_stream(batch):
    x, y = batch
    return x.float() + torch.rand(len(x), 1, 1), y


@pytest.mark.parametrize("prepare", [Images(crop=1, flip=True), from_the_stream], ids=["each sample's numbers", "the run's own generator"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(prepare, tmp_path):
    data = Samples((X, Y), prepare=prepare)
    whole, _ = fit(tmp_path / "whole", data)
    with pytest.MonkeyPatch.context() as patch:
        steps = []
        real = treadle.Trainer._standard_step

        def stops(self, step, model, optimizer):
            steps.append(step.number)
            if len(steps) == 5:
                raise KeyboardInterrupt
            real(self, step, model, optimizer)

        patch.setattr(treadle.Trainer, "_standard_step", stops)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "parts", data, checkpoint=treadle.CheckpointConfig(every="2 steps"))
    parts, result = fit(tmp_path / "parts", data, checkpoint=treadle.CheckpointConfig(every="2 steps"))
    assert steps[-1] == 5 and result.steps == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), parts.model.state_dict().values(), strict=True))


def test_training_evaluation_and_prediction_are_all_prepared(tmp_path):
    data = Samples((X, Y), prepare=Images(mean=0.5), sampler="sequential")
    trainer, result = fit(tmp_path / "run", data, duration="1 epoch")
    by_hand = trainer.model.eval()(Images(mean=0.5)(X)).detach()
    torch.testing.assert_close(trainer.predict(data), by_hand)
    assert trainer.evaluate(data)["loss"] == pytest.approx(result.metrics["valid/loss"]) == pytest.approx(nn.CrossEntropyLoss()(by_hand, Y).item())


def test_a_wrong_label_is_still_found_before_training(tmp_path):
    with pytest.raises(ObjectiveError, match="the data has 10"):
        fit(tmp_path / "run", Samples((X, torch.cat([Y[:9], torch.tensor([10])])), prepare=Images(), sampler="sequential"))


def test_labels_that_only_a_function_knows_are_not_judged(tmp_path):
    _, result = fit(tmp_path / "run", Samples((X, Y + 1), prepare=lambda batch: (batch[0].float(), batch[1] - 1)))
    assert result.status == "finished"


def test_a_data_loader_keeps_being_read_as_it_was():
    assert Loader(DataLoader(Subset(TensorDataset(X, Y), [1, 2]), batch_size=2), batch_size=1).source.prepare is None
