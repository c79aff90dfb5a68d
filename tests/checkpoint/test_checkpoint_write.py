"""A write: content, size and sum agree, however it is cut into pieces; and whose weights are seen as not finite."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from treadle.checkpoint import tensors
from treadle.checkpoint.tensors import pieces
from treadle.checkpoint.tracked import Tracked
from treadle.core.errors import NonFiniteLoss
from treadle.system.checksum import LARGE, Checksum
from treadle.system.files import write_file

HUGE = torch.finfo(torch.float32).max


@pytest.mark.parametrize("sizes", [[], [0], [5], [LARGE], [3, LARGE, 7, LARGE + 1], [LARGE] * 20])
def test_size_and_sum_are_those_of_what_is_in_the_file(tmp_path: Path, sizes: list[int]) -> None:
    content = [bytes([number % 251 + 1]) * size for number, size in enumerate(sizes)]
    size, checksum = write_file(tmp_path / "file", iter(content))
    written = (tmp_path / "file").read_bytes()
    assert written == b"".join(content)
    assert (size, checksum) == (len(written), hashlib.sha256(written).hexdigest())


def test_a_write_that_is_broken_off_leaves_no_thread_behind(tmp_path: Path) -> None:
    def broken_off() -> Iterator[bytes]:
        for _ in range(10):
            yield bytes(LARGE)
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "file", broken_off())
    assert threading.active_count() == before


def test_small_files_need_no_thread() -> None:
    with Checksum() as checksum:
        checksum.update(bytes(LARGE - 1))
        assert "treadle-checksum" not in [thread.name for thread in threading.enumerate()]
    assert checksum.hexdigest() == hashlib.sha256(bytes(LARGE - 1)).hexdigest()


@pytest.mark.parametrize("piece", [1, 7, 8, 64, 1 << 24])
def test_tensors_are_the_same_however_they_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(tensors, "_PIECE", piece)
    state = {
        "long": torch.arange(100.0),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3),
        **{f"short {number}": torch.full((number,), number, dtype=torch.bfloat16) for number in range(5)},
        "flags": torch.tensor([True, False, True]),
    }
    content = list(pieces(state))
    (tmp_path / "file").write_bytes(b"".join(content))
    found = load_file(tmp_path / "file")
    assert found.keys() == state.keys()
    assert all(found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in state.items())
    assert {len(one) for one in content[1:-1]} <= {piece}


def test_many_short_tensors_are_few_pieces() -> None:
    """Each piece asks for the interpreter's lock a few times while training needs it."""
    assert len(list(pieces({f"{number}": torch.zeros(3) for number in range(1000)}))) == 2


def test_a_piece_does_not_change_with_its_tensor() -> None:
    weight = torch.ones(4)
    _, piece = pieces({"weight": weight})
    weight.zero_()
    assert bytes(piece) == torch.ones(4).numpy().tobytes()


def with_weights(*values: float, dtype: torch.dtype = torch.float32) -> Tracked:
    model = nn.Module()
    model.first = nn.Parameter(torch.ones(3, dtype=dtype))  # type: ignore[assignment]
    model.second = nn.Parameter(torch.tensor(values, dtype=dtype))  # type: ignore[assignment]
    tracked = Tracked()
    tracked.add("model", model)
    return tracked


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [[float("nan")], [float("inf"), 1.0], [float("inf"), float("-inf")], [HUGE, float("nan"), -HUGE]])
def test_weights_that_are_not_finite_are_named(bad: list[float], dtype: torch.dtype) -> None:
    with pytest.raises(NonFiniteLoss, match=r"after step 3: second; they were not saved"):
        with_weights(*bad, dtype=dtype).check_finite(3, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_weights_whose_sum_overflows_are_finite(dtype: torch.dtype, sign: int) -> None:
    largest = sign * torch.finfo(dtype).max
    with_weights(largest, largest, largest, dtype=dtype).check_finite(3, None)
