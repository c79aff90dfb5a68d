"""Safe: reading a checkpoint runs nothing and believes nothing, whoever wrote it; what is wrong with it is a CheckpointError."""

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from functools import partial

import pytest
import torch
from torch import nn

import treadle
from faults import little_memory, obeying_permissions
from treadle.checkpoint.restore import read_checkpoint
from treadle.core.errors import CheckpointError

FILES = ["model.safetensors", "optimizer.safetensors", "run.safetensors", "state.json", "manifest.json"]
NEWEST = "step-000004"


def trainer(folder):
    torch.manual_seed(0)
    data = torch.randn(16, 3), torch.randn(16, 1)
    config = treadle.Config(
        run_dir=str(folder),
        duration="6 steps",
        batch_size=4,
        machine=treadle.MachineConfig(device="cpu"),
        checkpoint=treadle.CheckpointConfig(every="2 steps"),
        log=treadle.LogConfig(console="quiet", tensorboard=False),
    )
    return treadle.Trainer(nn.Linear(3, 1), nn.MSELoss(), data, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), config=config)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that fell over at step 5; its checkpoints are those of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    one = trainer(folder)

    @one.on("step_finished", every="5 steps")
    def fall_over(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        one.fit()
    return folder


@pytest.fixture
def folder(tmp_path, interrupted):
    return shutil.copytree(interrupted, tmp_path / "run")


@pytest.fixture
def newest(folder):
    return folder / "checkpoints" / NEWEST


def fixed_up(path):
    """Let the manifest say that every file is as it was meant to be: whoever can write a file can write that too."""
    files = {
        file.name: {"size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in path.iterdir()
        if file.name != "manifest.json" and file.is_file()
    }
    (path / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


def assert_refused(path):
    """By everything that reads a checkpoint; and a run goes on from the one before."""
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    with pytest.raises(CheckpointError):
        treadle.load_weights(path, nn.Linear(3, 1))
    result = trainer(path.parents[1]).fit()
    assert (result.status, result.steps) == ("finished", 6)


# --- code ---


class Bomb:
    """What an unpickler runs."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def as_pickle(bomb, file):
    file.write_bytes(pickle.dumps(bomb))


def as_torch_file(bomb, file):
    torch.save({"weight": bomb}, file)


def as_old_torch_file(bomb, file):
    torch.save({"weight": bomb}, file, _use_new_zipfile_serialization=False)


def as_zip(bomb, file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bomb))
        archive.writestr("__main__.py", f"import os; os.mkdir({bomb.mark!r})")


KINDS = [as_pickle, as_torch_file, as_old_torch_file, as_zip]
kinds = pytest.mark.parametrize("kind", KINDS)


def test_the_bomb_goes_off_where_somebody_unpickles(tmp_path):
    as_pickle(Bomb(tmp_path / "boom"), tmp_path / "file")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "boom").exists()


@kinds
@pytest.mark.parametrize("fix", [False, True], ids=["as it is", "with a manifest"])
@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_checkpoint_is_ever_unpickled(tmp_path, newest, kind, name, fix):
    kind(Bomb(tmp_path / "boom"), newest / name)
    if fix and name != "manifest.json":
        fixed_up(newest)
    try:
        assert_refused(newest)
    finally:
        assert not (tmp_path / "boom").exists()


@kinds
@pytest.mark.parametrize("name", ["run.json", "config.yaml", "best.json", "metrics.jsonl", "lock"])
def test_nor_is_another_file_of_the_run_folder(tmp_path, folder, kind, name):
    kind(Bomb(tmp_path / "boom"), folder / name)
    try:
        assert trainer(folder).fit().status == "finished"
    finally:
        assert not (tmp_path / "boom").exists()


@kinds
@pytest.mark.parametrize("name", ["model.pkl", "pickle.pt", "data.pkl", "x.safetensors"])
def test_a_file_that_belongs_to_no_checkpoint_is_left_alone(tmp_path, newest, kind, name):
    kind(Bomb(tmp_path / "boom"), newest / name)
    fixed_up(newest)
    read_checkpoint(newest)
    assert not (tmp_path / "boom").exists()


@kinds
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_are_never_unpickled(tmp_path, kind, name):
    kind(Bomb(tmp_path / "boom"), tmp_path / name)
    with pytest.raises(CheckpointError, match=name):
        treadle.load_weights(tmp_path / name, nn.Linear(3, 1))
    assert not (tmp_path / "boom").exists()


# --- JSON ---


def state_of(path):
    return json.loads((path / "state.json").read_text())


DEEP = "[" * 200_000 + "]" * 200_000
TEXTS = {
    "empty": "",
    "deep nesting": DEEP,
    "deep nesting of dicts": '{"a":' * 200_000 + "1" + "}" * 200_000,
    "a huge number": "9" * 10_000,
    "NaN": "NaN",
    "null": "null",
    "a list": "[]",
    "a text": '"files"',
    "no UTF-8": b"\xff\xfe{}",
    "an empty object": "{}",
    "half": '{"format": 1, "files": {',
}
texts = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


@texts
def test_a_manifest_with_anything_in_it_is_refused(newest, text):
    (newest / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(newest)


@texts
def test_a_state_with_anything_in_it_is_refused(newest, text):
    (newest / "state.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    fixed_up(newest)
    assert_refused(newest)


ENTRIES = {
    "files is a list": {"format": 1, "files": []},
    "files is a number": {"format": 1, "files": 3},
    "files is null": {"format": 1, "files": None},
    "an entry is a text": {"format": 1, "files": {"state.json": "x"}},
    "an entry is a list": {"format": 1, "files": {"state.json": [1, 2]}},
    "a size is a text": {"format": 1, "files": {"state.json": {"size": "1", "sha256": "0"}}},
    "a size is NaN": {"format": 1, "files": {"state.json": {"size": float("nan"), "sha256": "0"}}},
    "a size is huge": {"format": 1, "files": {"state.json": {"size": 10**400, "sha256": "0"}}},
    "a size is negative": {"format": 1, "files": {"state.json": {"size": -1, "sha256": "0"}}},
    "a checksum is null": {"format": 1, "files": {"state.json": {"size": 1, "sha256": None}}},
    "no files": {"format": 1, "files": {}},
    "a format that is true": {"format": [1], "files": {}},
    "an empty name": {"format": 1, "files": {"": {"size": 1, "sha256": "0"}}},
    "a name with a zero": {"format": 1, "files": {"a\0b": {"size": 1, "sha256": "0"}}},
    "a name that is too long": {"format": 1, "files": {"a" * 5000: {"size": 1, "sha256": "0"}}},
    "a name with half a character": {"format": 1, "files": {"\ud800": {"size": 1, "sha256": "0"}}},
}


@pytest.mark.parametrize("manifest", ENTRIES.values(), ids=ENTRIES)
def test_a_manifest_of_the_wrong_types_is_refused(newest, manifest):
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(newest)


@pytest.mark.parametrize("where", ["parent", "absolute", "below"])
def test_a_manifest_that_names_files_outside_of_the_folder_is_refused(tmp_path, newest, where):
    """Also where they are just as it says: a checkpoint is its folder."""
    file = {"parent": tmp_path / "x", "absolute": tmp_path / "x", "below": newest / "sub" / "x"}[where]
    file.parent.mkdir(exist_ok=True)
    file.write_text("secret")
    named = {"parent": "../../../x", "absolute": str(file), "below": "sub/x"}[where]
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"][named] = {"size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(newest)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_file_that_the_manifest_does_not_name_is_not_read(newest, name):
    """What was not summed could be anything."""
    manifest = json.loads((newest / "manifest.json").read_text())
    del manifest["files"][name]
    (newest / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(newest)


def change(path, *keys, value):
    """Change one value of state.json."""
    content = state_of(path)
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (path / "state.json").write_text(json.dumps(content))
    fixed_up(path)


STATES = {
    "states is a list": (("states",), []),
    "states is null": (("states",), None),
    "info is missing": (("info",), None),
    "a tensor that is not there": (("states", "model", "weight"), {"$tensor": "nowhere"}),
    "a tensor by a number": (("states", "model", "weight"), {"$tensor": 3}),
    "a tensor by a list": (("states", "model", "weight"), {"$tensor": [1]}),
    "an array that is not there": (("states", "model", "weight"), {"$array": "nowhere"}),
    "a tuple of a number": (("states", "model", "weight"), {"$tuple": 3}),
    "a dict of a number": (("states", "model", "weight"), {"$dict": 3}),
    "a dict of no pairs": (("states", "model", "weight"), {"$dict": [[1, 2, 3]]}),
    "a dict with a list as key": (("states", "model", "weight"), {"$dict": [[[1], 2]]}),
}


@pytest.mark.parametrize(("keys", "value"), STATES.values(), ids=STATES)
def test_a_state_of_the_wrong_types_is_refused(newest, keys, value):
    change(newest, *keys, value=value)
    assert_refused(newest)


NAMES = ["../../../x", "/etc/x", "a/../../x", "\0", ".."]


@pytest.mark.parametrize("name", NAMES)
def test_a_state_by_the_name_of_a_place_outside_of_the_folder_is_refused(newest, name):
    content = state_of(newest)
    content["states"][name] = {"weight": {"$tensor": "weight"}}
    (newest / "state.json").write_text(json.dumps(content))
    fixed_up(newest)
    with pytest.raises(CheckpointError):
        read_checkpoint(newest)


@pytest.mark.parametrize("value", [[1, 2], 3, None, "text", {"weight": 3}, {"weight": [1.0]}, {"weight": None}])
def test_weights_that_are_no_tensors_are_refused(newest, value):
    change(newest, "states", "model", value=value)
    with pytest.raises(CheckpointError):
        treadle.load_weights(newest, nn.Linear(3, 1))


# --- files ---


def header(text, size=None):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text


TERA = 1 << 42
TENSORS = {
    "a header of terabytes": header(b"{}", TERA),
    "a header of 2**64 - 1 bytes": header(b"{}", 2**64 - 1),
    "a tensor of terabytes": header({"weight": {"dtype": "F32", "shape": [TERA], "data_offsets": [0, 4 * TERA]}}),
    "a shape of terabytes and no bytes": header({"weight": {"dtype": "F32", "shape": [TERA], "data_offsets": [0, 0]}}),
    "a shape that overflows": header({"weight": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}),
    "offsets before the file": header({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
    "offsets that overlap": header(
        {
            "weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        }
    )
    + bytes(4),
    "an unknown dtype": header({"weight": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
    "no JSON": header(b"\x80\x04\x95"),
    "deep nesting": header(DEEP.encode()),
    "nothing": b"",
}


@pytest.mark.parametrize("content", TENSORS.values(), ids=TENSORS)
def test_a_crafted_file_of_tensors_is_refused(newest, content):
    (newest / "model.safetensors").write_bytes(content)
    fixed_up(newest)
    with pytest.raises(CheckpointError):
        treadle.load_weights(newest / "model.safetensors", nn.Linear(3, 1))
    assert_refused(newest)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null", "nowhere", ".", "itself", "folder"])
def test_something_else_in_the_place_of_a_file_is_refused(newest, name, target):
    (newest / name).unlink()
    if target == "folder":
        (newest / name).mkdir()
    else:
        (newest / name).symlink_to(name if target == "itself" else target)
    with little_memory():
        assert_refused(newest)


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(newest, name):
    (newest / name).unlink()
    os.mkfifo(newest / name)
    assert_refused(newest)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read_is_passed_over(newest, name):
    (newest / name).chmod(0)
    with obeying_permissions():
        assert_refused(newest)


def test_the_facts_of_an_older_checkpoint_may_be_anything(folder):
    """They are read to know what may be removed, without a look at its manifest."""
    (folder / "checkpoints" / "step-000002" / "state.json").write_text(DEEP)
    assert trainer(folder).fit().status == "finished"
