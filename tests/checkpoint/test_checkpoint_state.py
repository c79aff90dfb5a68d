"""States: whatever a ``state_dict`` holds comes back exactly, without a pickle, or is refused by its path."""

import json
import math
import struct
from collections import OrderedDict, namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from treadle.checkpoint.restore import read_checkpoint
from treadle.checkpoint.save import write_checkpoint
from treadle.checkpoint.tree import encode
from treadle.core.errors import CheckpointError

examples = partial(settings, derandomize=True, deadline=None, database=None, max_examples=150)

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
]


def there_and_back(folder, state):
    """A state that was written to a checkpoint and read again."""
    return read_checkpoint(written(folder, thing=state))[0]["thing"]


def written(folder, **states):
    return write_checkpoint(folder, 1, {name: encode(state, name) for name, state in states.items()}, {"step": 1})


def bits(tensor):
    return tensor.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8).tolist() if tensor.numel() else []


def assert_exact(found, expected):
    """The same types, structure and bits."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor) and (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert bits(found) == bits(expected)
    elif isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray) and (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, dict):
        assert type(found) is dict and list(found) == list(expected)
        assert [type(key) for key in found] == [type(key) for key in expected]
        for key in expected:
            assert_exact(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert type(found) is type(expected) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_exact(one, other)
    elif isinstance(expected, float):
        assert (type(found) is float and struct.pack("d", found) == struct.pack("d", expected)) or (math.isnan(found) and math.isnan(expected))
    else:
        assert type(found) is type(expected) and found == expected


@st.composite
def tensors(draw):
    """Any bits in any dtype, 0-dimensional, empty and with strides among them."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 3), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    count = math.prod(shape)
    if dtype == torch.bool:
        value = torch.randint(0, 2, (count,), generator=generator).bool()
    else:
        value = torch.randint(0, 256, (count * dtype.itemsize,), generator=generator, dtype=torch.uint8).view(dtype)
    value = value.view(shape)
    return draw(st.sampled_from([value, value.mT if value.ndim > 1 else value, value[..., ::2] if value.ndim else value, value.expand(2, *shape)]))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = texts | st.sampled_from(["a.b", "a", "b", "0", "$tensor", "$tuple", "$dict", "$array", "weight"])
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, tensors())
states = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(names, inner, max_size=3),
        st.dictionaries(st.integers() | names | st.tuples(st.integers(), names) | st.booleans() | st.none(), inner, max_size=3),
    ),
    max_leaves=12,
)


@examples()
@given(state=st.dictionaries(names, states, max_size=4))
def test_a_nested_state_comes_back_exactly(tmp_path_factory, state):
    assert_exact(there_and_back(tmp_path_factory.mktemp("state"), state), state)


ODD = {
    "a dot in a key": {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(2)},
    "a number and its text": {1: torch.zeros(1), "1": torch.ones(2)},
    "a list and a dict of places": {"x": [torch.zeros(1)], "x.0": torch.ones(2)},
    "views of one storage": dict(zip("abc", torch.arange(6).view(3, 2), strict=True)),
    "array without dimensions": {"a": np.array(1.5)},
    "arrays": {"a": np.arange(6).reshape(2, 3).T, "b": np.zeros((0, 2), np.float32), "c": np.array([True]), "d": np.ones(3, np.float16)},
    "arrays that are read only": {"a": np.broadcast_to(np.arange(3.0), (2, 3)), "b": np.frombuffer(bytes(range(24)), np.int64)},
    "huge and tiny numbers": {"a": 10**40, "b": -0.0, "c": 5e-324, "d": math.inf, "e": math.nan},
    "an empty text as key": {"": torch.ones(1)},
    "safetensors' own key": {"__metadata__": torch.ones(1)},
}


@pytest.mark.parametrize("state", ODD.values(), ids=ODD)
def test_an_odd_state_comes_back_exactly(tmp_path, state):
    assert_exact(there_and_back(tmp_path, state), state)


def test_numpy_scalars_and_kinds_of_dicts_become_plain_ones(tmp_path):
    pair = namedtuple("pair", "x y")
    state = OrderedDict(i=np.int64(3), f=np.float32(0.5), b=np.bool_(True), p=pair(1, 2), s=torch.Size([1, 2]))
    assert_exact(there_and_back(tmp_path, state), {"i": 3, "f": 0.5, "b": True, "p": (1, 2), "s": (1, 2)})


def test_a_bare_tensor_is_a_state(tmp_path):
    assert_exact(there_and_back(tmp_path, torch.arange(3)), torch.arange(3))


def test_tied_tensors_are_stored_once_and_come_back_tied(tmp_path):
    big = torch.randn(1000)
    found = there_and_back(tmp_path, {"a": big, "b": {"c": nn.Parameter(big)}})
    assert found["a"].data_ptr() == found["b"]["c"].data_ptr()
    assert (tmp_path / "step-000001" / "thing.safetensors").stat().st_size < 1.5 * big.nbytes


def test_a_state_is_a_copy_of_the_moment(tmp_path):
    value = torch.zeros(2)
    path = written(tmp_path, thing={"a": value})
    value.fill_(5.0)
    assert read_checkpoint(path)[0]["thing"]["a"].tolist() == [0.0, 0.0]


def test_the_states_of_real_optimizers_come_back(tmp_path):
    model = nn.Linear(3, 2)
    for number, kind in enumerate([torch.optim.Adam, partial(torch.optim.SGD, lr=0.1, momentum=0.9), torch.optim.LBFGS, torch.optim.Adagrad]):
        optimizer = kind(model.parameters())

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(torch.ones(1, 3)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        found = there_and_back(tmp_path / str(number), optimizer.state_dict())
        assert_exact(found, optimizer.state_dict())
        kind(model.parameters()).load_state_dict(found)


REFUSED = {
    "set": ({1, 2}, "set"),
    "bytes": (b"x", "bytes"),
    "complex": (1j, "complex"),
    "function": (print, "builtin_function_or_method"),
    "object": (object(), "object"),
    "dtype": (torch.float32, "dtype"),
    "object array": (np.array([None]), "ndarray"),
    "sparse": (torch.ones(2, 2).to_sparse(), "Tensor"),
    "meta": (torch.ones(2, device="meta"), "Tensor"),
    "long double": (np.ones(2, np.longdouble), "ndarray"),
    "another byte order": (np.ones(2, ">f4"), "ndarray"),
}


@pytest.mark.parametrize(("value", "kind"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_stored_is_refused_by_its_path_and_nothing_is_left(tmp_path, value, kind):
    with pytest.raises(CheckpointError, match=rf"'thing'.*thing\.state\.0\.odd.*{kind}"):
        written(tmp_path, good={"a": torch.ones(1)}, thing={"state": {0: {"odd": value}}})
    assert list(tmp_path.iterdir()) == []


def test_there_is_no_pickle_in_a_checkpoint(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickled")

    for name in ("pickle.dumps", "pickle.dump", "pickle.loads", "pickle.load", "pickle.Pickler", "pickle.Unpickler", "torch.save", "torch.load"):
        monkeypatch.setattr(name, refuse)
    model = nn.Linear(2, 2)
    path = written(tmp_path, model=model.state_dict(), optimizer=torch.optim.Adam(model.parameters()).state_dict())
    read_checkpoint(path)
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    assert files.keys() == {"model.safetensors", "state.json", "manifest.json"}
    for name in ("state.json", "manifest.json"):
        json.loads(files[name])
    size = int.from_bytes(files["model.safetensors"][:8], "little")
    assert set(json.loads(files["model.safetensors"][8 : 8 + size])) == {"weight", "bias"}
