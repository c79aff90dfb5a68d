"""What is different between the record of a run and what goes on with it, with both values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from treadle.core.structure import same

Facts = Mapping[str, Any]


@dataclass
class Differences:
    """Lines for people, such as ``"package torch: 2.12.0 -> 2.13.0"``.

    Args:
        changing: what may change the result.
        other: what does not, or only by rounding.
    """

    changing: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)


def differences(before: Facts, now: Facts, data: Callable[[Any, Any], list[str]], is_place: Callable[[str], bool]) -> Differences:
    """Compare two records.

    Args:
        before: what `provenance/record.json` says; parts of it may be missing.
        now: the same of this moment.
        data: compares the fingerprints of one dataset.
        is_place: whether a key of the config says where a run is computed, and not what.
    """
    found = Differences()
    _code(before.get("code") or {}, now["code"], found)
    _environment(before.get("environment") or {}, now["environment"], found)
    _config(before.get("config") or {}, now["config"], is_place, found)
    for name, fingerprint in now["data"].items():
        if (known := (before.get("data") or {}).get(name)) is not None:
            found.changing += [f"{name} data, {line}" for line in data(known, fingerprint)]
    return found


def _code(before: Facts, now: Facts, found: Differences) -> None:
    """Files that are imported both times; one that is not imported any more, or only now, shows in those that import it."""
    files = before.get("files", {})
    for name, digests in now["files"].items():
        known = files.get(name, digests)
        if known["sha256"] != digests["sha256"]:
            means_same = known["meaning"] == digests["meaning"]
            line = f"{name}: {known['sha256'][:12]} -> {digests['sha256'][:12]}{' (comments and layout only)' if means_same else ''}"
            (found.other if means_same else found.changing).append(f"code, {line}")
    commits = {entry["root"]: entry["commit"] for entry in before.get("repositories", ())}
    for entry in now["repositories"]:
        if (commit := commits.get(entry["root"], entry["commit"])) != entry["commit"]:
            found.other.append(f"commit of {entry['root']}: {str(commit)[:12]} -> {str(entry['commit'])[:12]}")


def _environment(before: Facts, now: Facts, found: Differences) -> None:
    if (python := before.get("python", now["python"])) != now["python"]:
        minor = [version.split(".")[:2] for version in (python, now["python"])]
        (found.other if minor[0] == minor[1] else found.changing).append(f"Python: {python} -> {now['python']}")
    used = set(before.get("imported", ())) & set(now["imported"])
    for name in sorted(used):
        versions = before.get("packages", {}).get(name), now["packages"].get(name)
        if None not in versions and versions[0] != versions[1]:
            found.changing.append(f"package {name}: {versions[0]} -> {versions[1]}")
    for name in ("host", "platform", "cpu", "threads", "device", "gpus", "driver", "torch_build"):
        if not same(was := before.get(name, now[name]), now[name]):
            found.other.append(f"{name}: {was} -> {now[name]}")
    variables = before.get("variables", now["variables"])
    for name in sorted({*variables, *now["variables"]}):
        was, value = variables.get(name, "(not set)"), now["variables"].get(name, "(not set)")
        if was != value and not name.startswith("SLURM_"):
            found.other.append(f"variable {name}: {was} -> {value}")


def _config(before: Facts, now: Facts, is_place: Callable[[str], bool], found: Differences) -> None:
    for name in dict.fromkeys([*before, *now]):
        was, value = (side.get(name, {}).get("value", "(absent)") for side in (before, now))
        if before and not same(was, value) and not name.endswith("run_dir"):
            (found.other if is_place(name) else found.changing).append(f"config {name}: {was!r} -> {value!r}")
