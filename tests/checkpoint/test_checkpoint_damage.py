"""Damage: a checkpoint that is not whole is never believed, and the one before is taken."""

import shutil
from functools import partial

import pytest
import torch
from torch import nn

import treadle
from faults import full_disk
from treadle.checkpoint.restore import read_checkpoint, verify
from treadle.checkpoint.save import write_checkpoint
from treadle.checkpoint.tree import encode
from treadle.core.errors import CheckpointError

FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def extend(file):
    file.write_bytes(file.read_bytes() + b"\0")


def empty(file):
    file.write_bytes(b"")


def remove(file):
    file.unlink()


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGES = [truncate, extend, empty, remove, flip]


def checkpoint(folder, step=1):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    states = {name: encode(item.state_dict(), name) for name, item in (("model", model), ("optimizer", optimizer))}
    return write_checkpoint(folder, step, states, {"step": step, "value": None})


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_found_and_named(tmp_path, name, damage):
    path = checkpoint(tmp_path)
    verify(path)
    damage(path / name)
    with pytest.raises(CheckpointError) as caught:
        verify(path)
    assert str(path) in str(caught.value)
    # A flipped bit in the manifest may make any file look wrong.
    assert name in str(caught.value) or (name, damage) == ("manifest.json", flip)


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_goes_unnoticed(tmp_path, name):
    path = checkpoint(tmp_path)
    file = path / name
    whole = file.read_bytes()
    places = range(len(whole)) if name == "manifest.json" else range(0, len(whole), 7)
    for place in places:
        for bit in range(8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            with pytest.raises(CheckpointError):
                verify(path)


def test_a_manifest_of_another_format_is_refused(tmp_path):
    path = checkpoint(tmp_path)
    (path / "manifest.json").write_text((path / "manifest.json").read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(CheckpointError, match="its format is 99, this version reads 1"):
        verify(path)


# --- in a run ---


def trainer(folder, **given):
    torch.manual_seed(0)
    data = torch.randn(32, 3), torch.randn(32, 1)
    config = treadle.Config(
        run_dir=str(folder),
        duration="8 steps",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(every="2 steps", keep_last=3),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
    )
    return treadle.Trainer(nn.Linear(3, 1), nn.MSELoss(), data, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), config=config, **given)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that fell over in step 5; its checkpoints are those of steps 0, 2 and 4."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    one = trainer(folder)

    @one.on("step_finished", every="5 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000000", "step-000002", "step-000004"]
    return folder


@pytest.fixture
def folder(tmp_path, interrupted):
    return shutil.copytree(interrupted, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of the run that was never interrupted."""
    one = trainer(tmp_path_factory.mktemp("whole"))
    one.fit()
    return one.model.state_dict()


def assert_finishes_like(whole, folder):
    one = trainer(folder)
    result = one.fit()
    assert (result.status, result.steps) == ("finished", 8)
    assert all(torch.equal(value, whole[key]) for key, value in one.model.state_dict().items())
    assert [row["step"] for row in treadle.read_journal(folder)] == list(range(1, 9))
    for path in (folder / "checkpoints").glob("step-0*"):
        verify(path)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, "run.safetensors"])
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole_and_says_so(folder, capsys, whole, name, damage):
    damage(folder / "checkpoints" / "step-000004" / name)
    assert_finishes_like(whole, folder)
    err = capsys.readouterr().err
    assert "warning" in err and "step-000004" in err and "trying the one before" in err


@pytest.mark.parametrize("text", ['"size"', '"sha256"', '"files"', '"format"', "model"])
def test_a_run_goes_on_past_any_damage_to_a_manifest(folder, whole, text):
    file = folder / "checkpoints" / "step-000004" / "manifest.json"
    content = bytearray(file.read_bytes())
    content[content.index(text.encode()) + 1] ^= 1
    file.write_bytes(content)
    assert_finishes_like(whole, folder)


def test_a_run_whose_checkpoints_are_all_damaged_says_so_and_touches_nothing(folder):
    for path in (folder / "checkpoints").iterdir():
        truncate(path / "state.json")
    journal = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        trainer(folder).fit()
    assert (folder / "metrics.jsonl").read_bytes() == journal


def test_the_leftovers_of_a_killed_save_are_harmless(folder, whole):
    for step in (4, 6):
        shutil.copytree(folder / "checkpoints" / "step-000004", folder / "checkpoints" / f".step-00000{step}.tmp")
        (folder / "checkpoints" / f".step-00000{step}.tmp" / "manifest.json").unlink()
    (folder / ".run.json.tmp").write_text("{")
    assert_finishes_like(whole, folder)
    assert not (folder / "checkpoints" / ".step-000006.tmp").exists()


def test_foreign_files_among_the_checkpoints_are_harmless(folder, whole):
    (folder / "checkpoints" / "step-notes.txt").write_text("mine")
    (folder / "checkpoints" / "notes").mkdir()
    assert_finishes_like(whole, folder)
    assert (folder / "checkpoints" / "step-notes.txt").exists() and (folder / "checkpoints" / "notes").exists()


# --- a disk that is full ---


@pytest.mark.parametrize("room", [0, 10, 400])
def test_a_checkpoint_that_finds_no_room_leaves_the_older_ones_and_nothing_else(tmp_path, room):
    older = checkpoint(tmp_path, step=1)
    message = r"cannot write the checkpoint .*step-000002.*older checkpoints are untouched"
    with full_disk() as disk, pytest.raises(CheckpointError, match=message):
        disk(room)
        checkpoint(tmp_path, step=2)
    assert list(tmp_path.iterdir()) == [older]
    verify(older)


def test_a_run_reports_a_checkpoint_that_finds_no_room_and_goes_on(tmp_path, capsys, whole):
    one = trainer(tmp_path)

    @one.on("step_finished")
    def fill_the_disk_for_a_while(run):
        if run.progress.steps == 2:
            disk((tmp_path / "metrics.jsonl").stat().st_size)
        if run.progress.steps == 3:
            disk()

    with full_disk() as disk:
        result = one.fit()
    assert result.status == "finished"
    assert "checkpoint" in capsys.readouterr().err
    assert all(torch.equal(value, whole[key]) for key, value in one.model.state_dict().items())
    assert [row["step"] for row in treadle.read_journal(tmp_path)] == list(range(1, 9))


def test_the_users_exception_arrives_also_where_the_disk_is_full(tmp_path):
    one = trainer(tmp_path)

    @one.on("step_finished", every="3 steps")
    def fill_the_disk_and_fall_over(run):
        disk(0)
        raise ZeroDivisionError

    with full_disk() as disk, pytest.raises(ZeroDivisionError):
        one.fit()


def test_a_checkpoint_knows_the_step_and_the_states_it_was_given(tmp_path):
    states, info = read_checkpoint(checkpoint(tmp_path, step=123))
    assert info == {"step": 123, "value": None} and set(states) == {"model", "optimizer"}
