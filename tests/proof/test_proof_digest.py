"""What a witness writes down stands for all of it; what cannot be told is not counted as compared."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from treadle.proof.attend import WITNESS, Witness
from treadle.proof.compare import compare
from treadle.proof.digest import Untold, digest_of, whole_digest


@dataclass
class Item:
    x: object


class Thing:
    def __init__(self, x):
        self.x = x


def sparse(value, layout=torch.sparse_coo):
    return torch.tensor([[0.0, value], [0.0, 0.0]]).to_sparse(layout=layout)


def nested(value, layout):
    return torch.nested.nested_tensor([torch.zeros(2), torch.full((3,), value)], layout=layout)


@pytest.mark.parametrize(
    "made",
    [
        lambda value: np.array([*range(20_000), value, *range(20_000)]),
        lambda value: [*range(20_000), value, *range(20_000)],
        lambda value: {"a": {value}},
        lambda value: {value: 1},
        lambda value: [Item(Item((value,)))],
        lambda value: [Thing(value)],
        lambda value: [sparse(float(value))],
        lambda value: (sparse(float(value), torch.sparse_csr),),
        lambda value: {"a": sparse(float(value), torch.sparse_csc)},
        lambda value: [nested(float(value), torch.jagged)],
        lambda value: Item(nested(float(value), torch.strided)),
        lambda value: torch.tensor(value, dtype=torch.bfloat16),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(nested tensors|Sparse|sparse):UserWarning")
def test_everything_counts(made):
    assert whole_digest(made(1)) == whole_digest(made(1)) != whole_digest(made(2))


def test_what_cannot_be_told_is_said():
    with pytest.raises(Untold, match="pickled"):
        whole_digest([lambda: 0])
    with pytest.raises(Untold):
        whole_digest(torch.empty(2, device="meta"))


def test_no_single_bit_of_a_large_tensor_is_lost_in_the_sums():
    one = torch.zeros(2**22 + 2)
    other = one.clone()
    other[3] = -0.0  # the highest bit of the second number of eight bytes
    assert digest_of(one) != digest_of(other)


class Step(list):
    number, samples, ids, backward = 1, 2, np.arange(2), None


def witnessed(folder, batch):
    folder.mkdir()
    model = torch.nn.Linear(1, 1)
    torch.manual_seed(0)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    loop = SimpleNamespace(tracked=SimpleNamespace(models=lambda: {"model": model}))
    run = SimpleNamespace(dir=folder, step=Step([batch]), _loop=loop)
    Witness(run).see(run)
    (folder / "metrics.jsonl").write_text("")
    return json.loads((folder / WITNESS).read_text())


def test_a_batch_that_cannot_be_told_is_not_counted_as_compared(tmp_path):
    assert witnessed(tmp_path / "a", lambda: 0)["batch"] is None
    witnessed(tmp_path / "b", lambda: 1)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.difference is None and found.counts["batches"] == 0 and found.counts["sample ids"] == 2
    assert len(found.notes) == 1 and found.notes[0].startswith("what is in the batch could not be told, and was not compared: ")


def test_a_batch_of_which_only_one_item_in_the_middle_differs_is_another(tmp_path):
    witnessed(tmp_path / "a", list(range(30_000)))
    witnessed(tmp_path / "b", [*range(20_000), 7, *range(20_001, 30_000)])
    assert compare(tmp_path / "a", tmp_path / "b").difference.what == "batch"
