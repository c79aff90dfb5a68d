"""The fingerprint of a dataset: JSON facts that say which data this is, cheap enough to be taken at every start of a run."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from typing import Any

import torch

from treadle.core.mix import mix
from treadle.core.structure import leaves
from treadle.data.content import BYTES
from treadle.data.items import Ask, Clock, Look, Viewer
from treadle.data.loader import Loader
from treadle.data.sources import Source

ITEMS, SECONDS, TWICE = 64, 0.3, 4
"""How many items are read, for how long, and how many of them a second time to see whether they are random."""
SMALL = 2**26
"""Bytes of data in memory that are digested as a whole."""
CHOICE = 31
"""What the mixed number is for: which items are read."""


def fingerprint(data: Loader | Source, seed: int, *, clock: Clock = time.perf_counter, viewer: Viewer | None = None) -> dict[str, Any]:
    """Facts that say which data this is, and that another process can compare with its own.

    Up to 64 items are read, for 0.3 s or so: the same ones whatever the seed, each as the first epoch has it; where the
    loader has workers, in a process of their kind. What the process's generators, and those that the dataset holds in its
    attributes, were before, they are afterwards. Streams and batches are not read: that would take from what training reads.

    Args:
        data: a loader, or a source.
        seed: the run's seed, under which random items are drawn.
        clock: tells the time in seconds.
        viewer: reads the items, where one is open already.

    Returns:
        ``kind``, ``type`` and ``length`` (None where nobody knows). Where items were read: ``item``, the first in words;
        ``read``, how many; ``hashes``, their digests by index; ``random``, whether an item is another one in another epoch;
        ``seed``, and of random items ``seeded``, whether the same seed gives the same ones: not so where a dataset draws from
        a generator of its own. Of data in memory that is not large ``all``, a digest of all of it. ``note`` says what was not read,
        ``error`` what a dataset raised.

    Example:
        >>> facts = fingerprint(Loader((torch.zeros(3, 2), torch.arange(3)), batch_size=1), seed=0)
        >>> facts["kind"], facts["length"], facts["item"], facts["read"]
        ('tensors', 3, '(float32[2], int64[])', 3)
    """
    loader = data if isinstance(data, Loader) else Loader(data, batch_size=1)
    if viewer is None:
        with Viewer(loader, seed, clock) as viewer:
            return fingerprint(loader, seed, clock=clock, viewer=viewer)
    source = loader.source
    facts: dict[str, Any] = {"kind": source.kind, "type": viewer.name, "length": source.length}
    if not viewer.can_look:
        return {**facts, "note": f"not read: {viewer.name} {viewer.why_not}"}
    assert source.length is not None
    chosen = list(_chosen(source.length))
    look = viewer.look(Ask(chosen, seconds=SECONDS))
    facts |= {"item": look.item, "read": len(look.whole), "seed": seed}
    facts["hashes"] = {str(index): whole.hex() for index, whole in zip(chosen, look.whole, strict=False)}
    if source.kind == "indexed" and not look.error:
        few = chosen[: min(TWICE, len(look.whole))]
        facts["random"] = _is_other(look, viewer.look(Ask(few, epoch=1, seconds=SECONDS / 4, stirred=True)))
        if facts["random"]:
            facts["seeded"] = not _is_other(look, viewer.look(Ask(few, seconds=SECONDS / 4, stirred=True)))
    if source.kind == "tensors" and not look.error and (whole := _digest_of_all(source)):
        facts["all"] = whole
    return {**facts, "error": look.error} if look.error else facts


def _is_other(look: Look, again: Look) -> bool:
    """Whether an item that was looked at twice was not the same."""
    return any(one != other for one, other in zip(look.whole, again.whole, strict=False))


def _chosen(length: int) -> Iterator[int]:
    """Which items are read: spread over the dataset, mostly the same ones where it grows or shrinks."""
    if length <= ITEMS:
        yield from range(length)
        return
    mask, number = (1 << (length - 1).bit_length()) - 1, 0
    given: set[int] = set()
    while len(given) < ITEMS:
        index = mix(CHOICE, number) & mask if number else 0
        number += 1
        if index < length and index not in given:
            given.add(index)
            yield index


def _digest_of_all(source: Source) -> str:
    """Of data in memory, index applied; empty where it is large."""
    columns = leaves(source.data)
    if sum(column[:1].nbytes * (source.length or 0) for column in columns) > SMALL:
        return ""
    found = hashlib.blake2b(digest_size=BYTES)
    for column in columns:
        rows = column if source.index is None else column[source.index.to(column.device)]
        rows = rows.detach().cpu().resolve_conj().resolve_neg().contiguous()
        found.update(f"{rows.dtype}{list(rows.shape)}".encode())
        found.update(memoryview(rows.reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two fingerprints, in lines for people; also where one of them comes from a file.

    Random items are compared where they were drawn under the same seed, and the seed is all that they depend on. Of exceptions
    the type is compared: their texts have times and addresses in them.

    Args:
        before: what `fingerprint` gave once.
        now: what it gives now.

    Returns:
        lines with both values, such as "length: 55,000 -> 54,000"; none for the same data.

    Example:
        >>> differences({"kind": "indexed", "length": 55000}, {"kind": "indexed", "length": 54000})
        ['length: 55,000 -> 54,000']
    """
    words = [(name, before.get(name), now.get(name)) for name in ("kind", "type", "length", "item")]
    errors = [str(facts.get("error", "none")) for facts in (before, now)]
    if _what(errors[0]) != _what(errors[1]):
        words.append(("error", errors[0], errors[1]))
    # Items that were not read at all say nothing about the data: a dataset that raised has said so under "error".
    lines = [f"{name}: {_word(a)} -> {_word(b)}" for name, a, b in words if a != b and (name != "item" or (a and b))]
    return [*lines, *_items(before, now)]


def _items(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What was read of both."""
    old: dict[str, str] = before.get("hashes") or {}
    new: dict[str, str] = now.get("hashes") or {}
    common = [index for index in old if index in new]
    other = sorted((index for index in common if old[index] != new[index]), key=int)
    if other and not _are_comparable(before, now):
        return []
    if other:
        return [f"items: {len(other)} of {len(common)} differ, such as item {int(other[0]):,}"]
    if before.get("length") == now.get("length") and before.get("all") and now.get("all") and before["all"] != now["all"]:
        return [f"items: some differ, though none of the {len(common)} that were looked at one by one"]
    return []


def _are_comparable(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether other items mean other data."""
    if before.get("random") and now.get("random") and False in (before.get("seeded"), now.get("seeded")):
        return False
    return before.get("seed") == now.get("seed") or not (before.get("random") or now.get("random"))


def _what(error: str) -> str:
    """What of an error two starts have in common: which exception it was."""
    found = re.search(r"raised \w+|is unhashable", error)
    return found[0] if found else error


def _word(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else "unknown" if value is None else str(value)
