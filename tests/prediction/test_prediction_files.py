"""Predictions: in memory and in files the same numbers, in the order of the dataset, with their ids; a file is whole or not there."""

import csv
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import IterableDataset, Subset

import treadle
from treadle import errors
from treadle.system import files

QUIET = treadle.LogConfig(console="quiet", tensorboard=False)
X = torch.randn(37, 3, generator=torch.Generator().manual_seed(1))
Pair = namedtuple("Pair", ["scores", "answer"])


@dataclasses.dataclass
class Answers:
    """As many a library returns them."""

    scores: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    words: list[str]
    nothing: torch.Tensor | None = None


class ModelOutput(OrderedDict[str, Any]):
    """As transformers has it: a dict whose fields are attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Net(nn.Module):
    """Gives its answers in some structure."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.shape = nn.Linear(3, 2), shape

    def forward(self, x: torch.Tensor) -> Any:
        return self.shape(self.body(x))


def words(scores: torch.Tensor) -> list[str]:
    return ["yes" if one[0] > one[1] else "no, never" for one in scores]


SHAPES: dict[str, Any] = {
    "tensor": lambda s: s,
    "tuple": lambda s: (s, s.argmax(1)),
    "named": lambda s: Pair(s, s.argmax(1)),
    "dict": lambda s: {"scores": s, "deep": {"answer": s.argmax(1), "word": words(s)}},
    "dataclass": lambda s: Answers(s, (s + 1, s + 2), words(s)),
    "model output": lambda s: ModelOutput(logits=s, words=words(s)),
    "boxes": lambda s: {"boxes": [torch.full((int(one), 4), float(one)) for one in s.argmax(1)]},  # as many a sample as there are
}


def trainer(shape: Any = SHAPES["tensor"], **machine: Any) -> treadle.Trainer:
    config = treadle.Config(run_dir="run", duration="1 step", batch_size=8, machine=treadle.MachineConfig(**machine), log=QUIET)
    return treadle.Trainer(Net(shape), nn.CrossEntropyLoss(), (X, X), optimizer=torch.optim.SGD, config=config)


def here() -> list[str]:
    """What is in the working folder."""
    return sorted(path.name for path in Path().iterdir())


def at_once(shape: Any) -> Any:
    with torch.no_grad():
        return Net(shape)(X)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected)
    elif dataclasses.is_dataclass(expected):
        assert_same(vars(found), vars(expected))
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert_same(list(found.values()), list(expected.values()))
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("micro_batch", [None, 3], ids=["whole", "micro-batches"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_outputs_keep_their_structure(shape: Any, micro_batch: int | None) -> None:
    assert_same(trainer(shape, micro_batch=micro_batch).predict(X), at_once(shape))


def test_workers_change_nothing() -> None:
    shape = SHAPES["dataclass"]
    assert_same(trainer(shape, workers=2).predict(list(X)), at_once(shape))


class Stream(IterableDataset[torch.Tensor]):
    """Samples without an index."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(X)


KINDS = {
    "tensors": (X, range(37)),
    "subset": (Subset(list(X), [5, 3, 30]), [0, 1, 2]),
    "stream": (Stream(), range(37)),
    "batches": (treadle.Batches([X[:20], X[20:]]), range(37)),
}


@pytest.mark.parametrize(("data", "ids"), KINDS.values(), ids=KINDS)
def test_lines_have_the_ids_in_the_order_of_the_data(data: Any, ids: Any) -> None:
    given = trainer(SHAPES["dict"], micro_batch=3)
    whole = given.predict(data)
    assert given.predict(data, to="out/lines.jsonl") == Path("out/lines.jsonl")
    rows = [json.loads(line) for line in Path("out/lines.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(ids)
    assert torch.equal(torch.tensor([row["scores"] for row in rows]), whole["scores"])
    assert [row["deep.answer"] for row in rows] == whole["deep"]["answer"].tolist()
    assert [row["deep.word"] for row in rows] == whole["deep"]["word"]
    given.predict(data, to="table.csv")
    with open("table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["id", "scores.0", "scores.1", "deep.answer", "deep.word"]
    assert [int(row["id"]) for row in table] == list(ids)
    assert torch.equal(torch.tensor([[float(row["scores.0"]), float(row["scores.1"])] for row in table]), whole["scores"])
    assert [row["deep.word"] for row in table] == whole["deep"]["word"]


OWN_ORDERS = {
    "bucket": lambda: treadle.data.bucket(list(X), lambda x: int(100 * x[0].abs())),
    "sampler": lambda: treadle.Samples(list(X), sampler="shuffle"),
}


@pytest.mark.parametrize("to", [None, "rows.npy"])
@pytest.mark.parametrize("data", OWN_ORDERS.values(), ids=OWN_ORDERS)
def test_rows_in_another_order_than_the_dataset_are_refused_where_nothing_says_which_they_are(data: Any, to: str | None) -> None:
    with pytest.raises(errors.UsageError, match=r"order of its own.*predict the dataset itself, or give to='outputs\.jsonl'"):
        trainer().predict(data(), to=to)
    assert not Path("rows.npy").exists()


@pytest.mark.parametrize("data", OWN_ORDERS.values(), ids=OWN_ORDERS)
def test_in_another_order_each_output_comes_with_its_own_index(data: Any) -> None:
    given, whole = trainer(), trainer().predict(X)
    seen: dict[int, torch.Tensor] = {}
    given.predict(data(), to=lambda ids, output: seen.update(zip(ids.tolist(), output, strict=True)))
    assert list(seen) != sorted(seen)
    for index, output in seen.items():
        torch.testing.assert_close(output, whole[index])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_tensors_are_files_of_their_own_number_format(dtype: torch.dtype) -> None:
    given = trainer(lambda s: s.to(dtype))
    whole = given.predict(X)
    given.predict(X, to="all.npy")
    array = np.load("all.npy")
    assert torch.equal(torch.from_numpy(array), whole.float() if dtype is torch.bfloat16 else whole)
    given.predict(X, to="all.safetensors")
    found = load_file("all.safetensors")
    assert torch.equal(found["id"], torch.arange(37)) and found["output"].dtype is dtype and torch.equal(found["output"], whole)


def test_a_file_of_several_tensors_has_each_under_its_path() -> None:
    shape = lambda s: {"a": (s, s.bool()), "b": s[:, :, None].double()}  # noqa: E731
    given = trainer(shape)
    given.predict(X, to="all.safetensors")
    found, whole = load_file("all.safetensors"), given.predict(X)
    assert found.keys() == {"id", "a.0", "a.1", "b"}
    for name, tensor in [("a.0", whole["a"][0]), ("a.1", whole["a"][1]), ("b", whole["b"])]:
        assert torch.equal(found[name], tensor)


def test_a_function_gets_ids_and_outputs_batch_by_batch() -> None:
    seen: list[tuple[Any, Any]] = []
    given = trainer(SHAPES["dict"])
    assert given.predict(X, to=lambda ids, output: seen.append((ids, output))) is None
    assert [len(ids) for ids, _ in seen] == [8, 8, 8, 8, 5]
    assert np.concatenate([ids for ids, _ in seen]).tolist() == list(range(37))
    assert torch.equal(torch.cat([output["scores"] for _, output in seen]), given.predict(X)["scores"])


@pytest.mark.parametrize(
    ("shape", "to", "message"),
    [
        ("tensor", "a.npz", r"unknown ending '.npz'; did you mean '.npy'"),
        ("tensor", "a", r"unknown ending ''; known: .csv, .jsonl, .npy, .safetensors"),
        ("tensor", 3, r"to must be the path of a file, or a function of \(ids, output\), got 3"),
        ("tensor", "folder.npy", "it is a folder"),
        ("tuple", "a.npy", r"2 outputs \(0, 1\), and a .npy holds one array; write .safetensors"),
        ("dict", "a.safetensors", "the output 'deep.word' is no tensor; write .jsonl"),
        ("boxes", "a.csv", "the output 'boxes' holds more than numbers and texts"),
        (lambda s: s[:, :, None], "a.csv", r"the output 'output' has the shape \[8, 2, 1\]; a .csv holds numbers, texts and vectors"),
        (lambda s: s[:, : 1 + (len(s) == 8)], "a.npy", r"of sample 32 is torch.float32 of shape \[1\], those before torch.float32 of \[2\]"),
        (lambda s: {"id": s}, "a.jsonl", "an output is named 'id'"),
        (lambda s: {"s": s, "w": s[:3]}, "a.jsonl", "the output 'w' has 3 rows for 8 samples"),
        (lambda s: {"s": s, "w": 0.5}, "a.jsonl", "the output 'w' has float for 8 samples"),
        (lambda s: {"s": s, "loss": s.mean()}, "a.jsonl", "the output 'loss' is one number for 8 samples"),
        (lambda s: {"s": s, "loss": s.mean()}, None, "the output 'loss' is one number for 8 samples"),
        (lambda s: {"s": s} if len(s) == 8 else s, None, "the outputs from sample 32 on are float32"),
        (lambda s: [s] * len(s), None, "cannot tell whether the output .* is one item a sample, or 8 tensors"),
        (lambda s: {"s": s, "w": words(s)[:1] if len(s) == 5 else words(s)}, None, "a list of 1 items for 5 samples; it had one a sample before"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_left(shape: Any, to: Any, message: str) -> None:
    Path("folder.npy").mkdir()
    with pytest.raises(errors.TreadleError, match=message):
        trainer(SHAPES.get(shape) if isinstance(shape, str) else shape).predict(X, to=to)
    assert here() == ["folder.npy"]


def test_a_place_that_cannot_be_is_refused_before_anything_is_computed() -> None:
    def never(scores: torch.Tensor) -> Any:
        raise AssertionError

    with pytest.raises(errors.UsageError, match="unknown ending"):
        trainer(never).predict(X, to="a.txt")


def test_a_full_disk_leaves_the_file_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("old.jsonl").write_text("as it was")
    written: list[int] = []

    def full(handle: int, piece: Any) -> None:
        written.append(len(piece))
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(OSError, match="No space left") as caught:
        trainer().predict(X, to="old.jsonl")
    assert "the predictions could not be written; old.jsonl is as it was before" in caught.value.__notes__
    assert Path("old.jsonl").read_text() == "as it was" and here() == ["old.jsonl"]


def test_an_exception_of_the_model_arrives_unchanged_and_leaves_no_file() -> None:
    def breaks(scores: torch.Tensor) -> Any:
        if len(scores) == 5:
            raise ZeroDivisionError
        return scores

    for name in ("a.npy", "a.safetensors", "a.jsonl", "a.csv"):
        with pytest.raises(ZeroDivisionError):
            trainer(breaks).predict(X, to=name)
    assert here() == []


@pytest.mark.parametrize("name", ["a.npy", "a.jsonl"])  # one that is gathered first, one that is written as it comes
def test_killed_in_the_middle_no_file_has_the_name(name: str, tmp_path: Path) -> None:
    program = f"""
import os, signal, sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_prediction_files import X, trainer
def dies(scores):
    if len(scores) == 5 and os.environ["DIES"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return scores
trainer(dies).predict(X, to={name!r})
"""
    run = partial(subprocess.run, [sys.executable, "-c", program], cwd=tmp_path, check=False)
    assert run(env=os.environ | {"DIES": "1"}).returncode == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    assert run(env=os.environ | {"DIES": "0"}).returncode == 0
    assert here() == [name]


def test_memory_does_not_grow_with_the_data() -> None:
    class Many:
        """Samples made as they are read."""

        def __init__(self, length: int) -> None:
            self._length = length

        def __len__(self) -> int:
            return self._length

        def __getitem__(self, index: int) -> torch.Tensor:
            return X[index % 37]

    def long_words(scores: torch.Tensor) -> list[str]:
        return [f"{one.tolist()}" * 5 for one in scores]

    def peak(length: int, to: str | None = "many.jsonl") -> int:
        given = trainer(long_words)  # texts: what Python holds is seen by tracemalloc
        tracemalloc.start()
        given.predict(treadle.Samples(Many(length), random=False), to=to)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)
    few, many = peak(400), peak(4000)
    assert many < few + 100_000 < peak(4000, to=None)
    assert len(Path("many.jsonl").read_text().splitlines()) == 4000
