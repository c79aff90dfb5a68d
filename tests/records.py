"""Provenance files as a run leaves them, for tests of what reads them."""

import json
from pathlib import Path

HASH = "a" * 64


def record(**parts):
    """A record; its parts can be replaced by name."""
    return {
        "format": 1,
        "treadle": "0.1.0",
        "created": "2026-11-22T18:00:00+00:00",
        "seed": 0,
        "cwd": "/home/me/project",
        "command": ["python", "src/main.py", "lr=0.1"],
        "config": {"batch_size": {"value": 8, "from": "my.yaml:4"}, "duration": {"value": "2 epochs", "from": "command line"}},
        "code": {"repositories": [repository()], "files": {"src/main.py": {"sha256": HASH, "meaning": "m"}}, "notes": []},
        "environment": environment(),
        "data": {"train": {"kind": "tensors", "type": "tuple", "length": 55000, "seed": 0, "hashes": {"0": "aa", "7": "bb"}}},
        **parts,
    }


def repository(**facts):
    """A git repository of a record, without uncommitted changes."""
    usual = {"root": "/nowhere", "commit": "1" * 40, "branch": "main", "remote": None, "patch": None, "patch_sha256": None}
    return {**usual, "changed": [], "untracked": [], "left_out": [], **facts}


def environment(**facts):
    """An environment of a record."""
    usual = {"python": "3.11.9", "host": "name", "cpu": "a cpu", "device": "cpu", "variables": {"OMP_NUM_THREADS": "4"}}
    return {**usual, "packages": {"numpy": "2.1.0", "aaa": "1"}, "imported": ["numpy"], **facts}


def write_provenance(folder, history=(), **parts):
    """Put a record and a history into a run folder."""
    place = Path(folder, "provenance")
    place.mkdir(parents=True, exist_ok=True)
    (place / "record.json").write_text(json.dumps(record(**parts)))
    (place / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in history))


def event(kind, time, **facts):
    """A line of a history; the time is one of the day."""
    return {"event": kind, "time": f"2026-11-22T{time}+00:00", "host": "name", "pid": 1, "step": 0, "command": [], **facts}
