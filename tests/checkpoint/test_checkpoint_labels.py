"""Run.keep: a checkpoint stays under its label until another one has it, whatever retention says and whatever goes wrong."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import treadle
from lives import quiet, same_after_a_fall
from treadle.checkpoint.restore import verify
from treadle.checkpoint.store import Checkpoints
from treadle.config.schema import CheckpointConfig
from treadle.core.errors import UsageError
from treadle.core.when import Duration, Progress

DATA = torch.randn(24, 2, generator=torch.Generator().manual_seed(1)), torch.randn(24, 1, generator=torch.Generator().manual_seed(2))


def trainer(folder, asked, **given):
    """A trainer that asks for labels: ``{step: [labels]}``."""
    torch.manual_seed(0)
    config = quiet(folder, **{"checkpoint": CheckpointConfig(every="5 steps", keep_last=1), **given})
    one = treadle.Trainer(nn.Linear(2, 1), nn.MSELoss(), DATA, optimizer=torch.optim.SGD, config=config)

    @one.on("step_finished")
    def keep(run):
        for label in asked.get(run.progress.steps, ()):
            run.keep(label)

    return one


def names(result):
    return {label: place.name for label, place in result.kept.items()}


def folders(tmp_path):
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def test_the_step_that_is_asked_for_is_saved_and_stays(tmp_path):
    result = trainer(tmp_path, {2: ["a", "b"], 4: ["b"], 7: ["c"]}).fit()
    assert names(result) == {"a": "step-000002", "b": "step-000004", "c": "step-000007"}
    assert folders(tmp_path) == ["step-000002", "step-000004", "step-000007", "step-000012"]
    for place in result.kept.values():
        verify(place)


def test_a_label_that_moves_on_lets_go(tmp_path):
    assert names(trainer(tmp_path, {step: ["a"] for step in range(1, 9)}).fit()) == {"a": "step-000008"}
    assert folders(tmp_path) == ["step-000008", "step-000012"]


@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(asked=st.lists(st.sets(st.sampled_from("abc")), min_size=1, max_size=8), last=st.integers(1, 3))
def test_what_stays_are_the_newest_and_those_with_a_label(tmp_path_factory, asked, last):
    folder = tmp_path_factory.mktemp("run")
    store = Checkpoints(folder, CheckpointConfig(keep_last=last), print)
    owners = {}
    for step, labels in enumerate(asked, 1):
        for label in sorted(labels):
            store.ask(label, step)
        owners |= dict.fromkeys(labels, step)
        store.begin(Progress(Duration.parse("9 steps"), steps=step), {}, None)
        assert store.settle(must=True)
        expected = set(range(max(1, step - last + 1), step + 1)) | set(owners.values())
        assert {int(path.name[5:]) for path in (folder / "checkpoints").iterdir()} == expected
    again = Checkpoints(folder, CheckpointConfig(keep_last=1), print)
    assert again.restore() is not None
    again.tidy()
    assert again.kept == store.kept == {label: folder / "checkpoints" / f"step-{step:06d}" for label, step in owners.items()}
    assert {int(path.name[5:]) for path in (folder / "checkpoints").iterdir()} == {len(asked), *owners.values()}


@pytest.mark.parametrize("step", [3, 4, 6, 9])
def test_killed_and_gone_on_the_same_are_kept(tmp_path, step):
    def make(folder):
        return trainer(folder, {2: ["a", "b"], 4: ["b"], 7: ["c"], 8: ["c"]})

    assert names(same_after_a_fall(make, tmp_path, step)) == {"a": "step-000002", "b": "step-000004", "c": "step-000008"}


def test_where_the_newest_is_damaged_the_labels_are_those_of_the_one_before(tmp_path):
    trainer(tmp_path, {2: ["a"], 8: ["a", "b"]}, checkpoint=CheckpointConfig(every="5 steps", keep_last=9), duration="9 steps").fit()
    shutil.rmtree(tmp_path / "checkpoints" / "step-000009")
    (tmp_path / "checkpoints" / "step-000008" / "state.json").write_text("{}")
    store = Checkpoints(tmp_path, CheckpointConfig(keep_last=9), lambda text: None)
    store.restore()
    assert {label: place.name for label, place in store.kept.items()} == {"a": "step-000002"}


def test_a_checkpoint_that_cannot_be_written_leaves_the_label_where_it_is(tmp_path, monkeypatch):
    said = []
    store = Checkpoints(tmp_path, CheckpointConfig(keep_last=1), said.append)

    def save(step):
        store.ask("a", step)
        store.begin(Progress(Duration.parse("9 steps"), steps=step), {}, None)
        return store.settle()

    def full(*args):
        raise OSError(28, "No space left on device")

    assert save(1)
    with monkeypatch.context() as patch:
        patch.setattr("treadle.checkpoint.store.write_checkpoint", full)
        assert not save(2)
    assert said and store.kept == {"a": tmp_path / "checkpoints" / "step-000001"}
    store.begin(Progress(Duration.parse("9 steps"), steps=3), {}, None)  # which nobody asked for
    assert store.settle()
    assert store.kept == {"a": tmp_path / "checkpoints" / "step-000001"} and folders(tmp_path) == ["step-000001", "step-000003"]


def test_in_the_body_of_an_own_loop(tmp_path):
    with treadle.Run(quiet(tmp_path, duration="6 steps")) as run:
        with pytest.raises(UsageError, match=r"keep\('early'\): the loop has not begun"):
            run.keep("early")
        model, optimizer = run.prepare(nn.Linear(2, 1), torch.optim.SGD)
        run.track(model=model, optimizer=optimizer)
        for step in run.steps(DATA):
            for x, y in step:
                step.backward(nn.functional.mse_loss(model(x), y))
            step.update(optimizer)
            if step.number in (2, 4):
                run.keep("even")
    assert names(run.result) == {"even": "step-000004"}


@pytest.mark.parametrize("event", ["run_started", "checkpoint_saved", "run_finished"])
def test_where_it_is_too_late_is_said(tmp_path, event):
    one = trainer(tmp_path, {})
    one.on(event)(lambda run: run.keep("late"))
    with pytest.raises(UsageError, match=r"keep\('late'\): the checkpoint of step \d+ is there already; ask in the body"):
        one.fit()


@pytest.mark.parametrize("label", ["", None, 3])
def test_a_label_is_a_text(tmp_path, label):
    one = trainer(tmp_path, {1: [label]})
    with pytest.raises(UsageError, match="a label is a text"):
        one.fit()
