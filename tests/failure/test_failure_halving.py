"""machine.micro_batch="auto": what does not fit is made again in smaller parts, and nothing else is different."""

import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import treadle
from treadle.core.errors import DataError
from treadle.data.batch import Batch, cut
from treadle.metrics import Accuracy

X, Y = torch.randn(96, 6, generator=torch.Generator().manual_seed(1)), torch.arange(96) % 3


class Small(nn.Module):
    """A model that can hold so many samples at once."""

    def __init__(self, holds: int, after: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.holds, self.after, self.calls = holds, after, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        torch.rand(3)  # whatever is drawn, or moved, before it is seen that there is no room
        if self.training:
            self.seen += len(x)
        if len(x) > self.holds and self.calls > self.after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return self.layers(x)


def config(run_dir: Any, micro_batch: Any = "auto", **more: Any) -> treadle.Config:
    machine = treadle.MachineConfig(micro_batch=micro_batch)
    log = treadle.LogConfig(console="plain", tensorboard=False, every="1 step")
    return treadle.Config(run_dir=str(run_dir), **{"duration": "2 epochs", "batch_size": 32, "machine": machine, "log": log, **more})


def fit(run_dir: Any, model: nn.Module, micro_batch: Any = "auto", **more: Any) -> tuple[treadle.Trainer, treadle.Result]:
    treadle.seed(3)
    given = config(run_dir, micro_batch, **more)
    trainer = treadle.Trainer(
        model, nn.CrossEntropyLoss(), (X, Y), valid=(X, Y), optimizer=partial(torch.optim.AdamW, lr=0.01),
        metrics={"accuracy": Accuracy()}, config=given,
    )  # fmt: skip
    return trainer, trainer.fit()


def build(holds: int, **more: Any) -> Small:
    treadle.seed(7)
    return Small(holds, **more)


def rows(run_dir: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith(("wall", "time/", "throughput/"))} for row in treadle.read_journal(run_dir)]


@pytest.mark.parametrize(("holds", "parts"), [(32, 32), (20, 16), (9, 8), (1, 1)])
def test_it_is_the_run_of_the_size_that_fits_to_the_bit(tmp_path, holds, parts):
    trainer, result = fit(tmp_path / "auto", build(holds))
    other, expected = fit(tmp_path / "given", build(100), parts, evaluate=treadle.EvaluateConfig(batch_size=parts))
    assert (result.status, result.steps) == ("finished", 6)
    for one, two in zip(trainer.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert int(trainer.model.seen) == 192
    assert result.metrics["train/accuracy"] == expected.metrics["train/accuracy"]  # no sample is counted twice
    assert result.metrics["train/epoch_loss"] == expected.metrics["train/epoch_loss"]


def test_each_halving_is_said_once(tmp_path, capsys):
    fit(tmp_path / "run", build(9))
    said = [line for line in capsys.readouterr().out.splitlines() if "did not fit" in line]
    assert [line.partition(" did")[0] for line in said[:2]] == ["step 1", "step 1"]
    assert "with 32 samples at once; from here on 16 go through the model" in said[0] and "from here on 8" in said[1]
    assert len(said) == 4 and all(line.startswith("an evaluation") for line in said[2:])


def test_random_numbers_of_a_step_that_is_made_again_are_those_of_the_first_attempt(tmp_path):
    """It fails late in the run, where the generators have moved for long."""
    trainer, _ = fit(tmp_path / "auto", build(16, after=7, dropout=0.5))
    seen = [row["train/loss"] for row in rows(tmp_path / "auto")]
    again, _ = fit(tmp_path / "again", build(16, after=7, dropout=0.5))
    assert seen == [row["train/loss"] for row in rows(tmp_path / "again")]
    assert all(torch.equal(one, two) for one, two in zip(trainer.model.parameters(), again.model.parameters(), strict=True))


def test_a_run_that_goes_on_keeps_the_size_that_was_found(tmp_path, capsys):
    stop = [True]

    def limited(run_dir: Any) -> treadle.Trainer:
        treadle.seed(3)
        model = build(9)
        return treadle.Trainer(model, nn.CrossEntropyLoss(), (X, Y), optimizer=partial(torch.optim.SGD, lr=0.1), config=config(run_dir))

    trainer = limited(tmp_path / "run")

    @trainer.on("step_finished", every="2 steps")
    def leave(run):
        if stop:
            stop.clear()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    stop[:] = []
    capsys.readouterr()
    whole = limited(tmp_path / "whole")
    whole.fit()
    capsys.readouterr()
    resumed = limited(tmp_path / "run")
    resumed.fit()
    assert all(torch.equal(one, two) for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_an_own_step_and_an_own_loop_have_it_too(tmp_path):
    def body(step, model, optimizer):
        for x, y in step:
            step.backward(nn.functional.cross_entropy(model(x), y))
        step.update(optimizer, clip=1.0)

    sgd = partial(torch.optim.SGD, lr=0.1)
    trainer = treadle.Trainer(build(9), None, (X, Y), step=body, optimizer=sgd, config=config(tmp_path / "step"))
    trainer.fit()
    with treadle.Run(config(tmp_path / "loop")) as run:
        model, optimizer = run.prepare(build(9), sgd)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps((X, Y)):
            run.attempt(body, step, model, optimizer)
    assert all(torch.equal(one, two) for one, two in zip(trainer.model.parameters(), model.parameters(), strict=True))


# --- what cannot be made again ---


def test_one_sample_that_does_not_fit(tmp_path):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        fit(tmp_path / "run", build(0))
    assert "does not fit into memory one sample at a time" in "".join(caught.value.__notes__)


def test_another_error_is_not_taken_for_it(tmp_path):
    class Wrong(nn.Linear):
        def forward(self, x):
            raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        fit(tmp_path / "run", Wrong(6, 3))


def test_an_optimizer_that_has_no_room_is_not_stepped_twice(tmp_path):
    class Full(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        treadle.train(build(99), nn.CrossEntropyLoss(), (X, Y), optimizer=partial(Full, lr=0.1), config=config(tmp_path / "run"))
    assert "an optimizer has moved" in "".join(caught.value.__notes__)


def test_with_a_number_nothing_is_made_again(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path / "run", build(9), 16)


def test_a_batch_without_samples_in_it_cannot_be_cut():
    with pytest.raises(DataError, match=r"of 4 samples cannot be cut: nothing in it is 4 long; give machine.micro_batch a number"):
        cut(Batch([{"nodes": torch.zeros(9, 2)}], [4], 4, False), 2)


def test_a_batch_is_cut_where_it_was_cut_before():
    part = torch.arange(5)
    small = cut(Batch([part, part + 5], [5, 5], 10, False), 2)
    assert [one.tolist() for one in small.parts] == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9]] and list(small.counts) == [2, 2, 1, 2, 2, 1]


# --- what an attempt leaves behind ---


def test_a_gradient_of_a_weight_outside_of_the_models_is_forgotten_too(tmp_path):
    """Else it would be counted twice: the part that fitted has left it there."""

    def trained(name: str, micro_batch: Any) -> list[torch.Tensor]:
        net, scale, fails = build(99), nn.Parameter(torch.ones(())), [micro_batch == "auto"]
        with treadle.Run(config(tmp_path / name, micro_batch)) as run:
            model, optimizer = run.prepare(net, torch.optim.SGD([*net.parameters(), scale], lr=0.1))
            run.track(model=model, optimizer=optimizer)

            def body(step):
                for place, (x, y) in enumerate(step):
                    if fails[0] and (place or len(x) == 32):
                        fails[0] = len(x) == 32
                        raise torch.OutOfMemoryError("CUDA out of memory")
                    step.backward(nn.functional.cross_entropy(model(x) * scale, y))
                step.update(optimizer)

            for step in run.steps((X, Y)):
                run.attempt(body, step)
        return [*net.parameters(), scale]

    assert all(map(torch.equal, trained("auto", "auto"), trained("given", 8)))


def test_an_update_that_is_left_out_is_counted_once(tmp_path):
    def body(step, model, optimizer):
        for place, (x, y) in enumerate(step):
            loss = nn.functional.cross_entropy(model(x), y)
            step.backward(loss * torch.nan if step.number == 3 else loss)
            if step.number == 3 and place and len(x) == 16:
                raise torch.OutOfMemoryError("CUDA out of memory")
        step.update(optimizer)

    given = config(tmp_path / "run", skip_non_finite=1)
    result = treadle.Trainer(build(16), None, (X, Y), step=body, optimizer=partial(torch.optim.SGD, lr=0.1), config=given).fit()
    assert (result.status, result.metrics["train/skipped_updates"]) == ("finished", 1)


def test_nothing_of_the_failed_attempt_is_alive_when_the_next_begins(tmp_path):
    class Watched(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left.append([reference() is not None for reference in refs])
            refs.clear()
            hidden = self.layers[0](x)
            refs.append(weakref.ref(hidden))
            if len(x) > self.holds:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.layers[1:](hidden)

    refs: list[Any] = []
    left: list[list[bool]] = []
    treadle.seed(7)
    fit(tmp_path / "run", Watched(9))
    assert left[:3] == [[], [False], [False]]  # tried with 32, 16 and 8


# --- evaluations, and what is no step ---


def test_an_evaluation_whose_batches_stay_as_they_are(tmp_path, capsys):
    valid = treadle.Batches([(X, Y)])
    with pytest.raises(torch.OutOfMemoryError) as caught:
        treadle.train(
            build(32), nn.CrossEntropyLoss(), (X, Y), valid=valid, optimizer=partial(torch.optim.SGD, lr=0.1), config=config(tmp_path / "run")
        )
    assert "its data comes in batches that stay as they are" in "".join(caught.value.__notes__)
    assert "one sample at a time" not in "".join(caught.value.__notes__) and "did not fit" not in capsys.readouterr().out


def test_an_evaluation_of_one_sample_that_does_not_fit(tmp_path):
    class Eager(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    treadle.seed(7)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        fit(tmp_path / "run", Eager(99))
    assert "an evaluation does not fit into memory one sample at a time" in "".join(caught.value.__notes__)


def test_before_the_first_step_the_error_arrives_as_it_is(tmp_path):
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with treadle.Run(config(tmp_path / "run", duration="1 epoch")) as run, pytest.raises(torch.OutOfMemoryError):
        run.attempt(full)
