"""The verdict: what was proved, in words for a paper's appendix, and no more than that."""

from __future__ import annotations

import dataclasses
import shlex
import textwrap
from typing import Any

from treadle.proof.prove import Proof

_WIDTH = 100
_COUNTED = ("steps", "samples", "sample ids", "batches", "losses", "journal rows", "journal values", "tensors", "state values")
_DIGITS = 16


def verdict(proof: Proof) -> str:
    """The text."""
    head = "PROVED" if proof.proved else "NOT PROVED"
    sentence = (
        "Two undisturbed runs and a run killed with SIGKILL that went on by the same command agree in every bit compared."
        if proof.proved and proof.kills
        else "Two undisturbed runs agree in every bit compared; no kill struck, so nothing is said of going on."
        if proof.proved
        else f"{proof.between[:1].upper()}{proof.between[1:]} differ."
        if proof.between
        else "There was nothing to compare."
    )
    lines = [f"{head}: {sentence}", "", *_facts(proof)]
    lines += ["", *_failure(proof)] if proof.difference else []
    lines += ["", *(line for note in proof.notes for line in _wrapped("Note", note))] if proof.notes else []
    return "\n".join(lines)


def as_json(proof: Proof, version: str) -> dict[str, Any]:
    """The same as one object."""
    return {**dataclasses.asdict(proof), "treadle": version}


def _facts(proof: Proof) -> list[str]:
    facts = proof.facts
    lines = _wrapped("Program", shlex.join(proof.program))
    for run, steps in proof.runs.items():
        lines += _wrapped("Run", f"{run}: {steps:,} steps, config {facts.get('config', {}).get(run) or 'unknown'}")
    lines += _wrapped("Seed", f"{facts.get('seed')}; {facts.get('parameters', 0):,} parameters")
    for number, kill in enumerate(proof.kills, 1):
        resumed = "nothing was left to do" if kill.resumed is None else f"went on from step {kill.resumed}"
        lines += _wrapped(f"Kill {number}", f"{f'{kill.run}, ' if len(proof.runs) > 1 else ''}step {kill.step}, {kill.how}; {resumed}")
    if proof.proved:
        lines += _wrapped("Compared", ", ".join(f"{proof.counts[name]:,} {name}" for name in _COUNTED if proof.counts.get(name)))
        if missing := [name for name in ("sample ids", "batches", "losses", "journal rows", "tensors") if not proof.counts.get(name)]:
            lines += _wrapped("Not there", f"{', '.join(missing)}: this program has none that could be compared, so nothing is said about them")
        for run, digest in proof.weights.items():
            lines += _wrapped("Weights", f"sha256 {digest[:_DIGITS]}{f' ({run})' if len(proof.weights) > 1 else ''}")
    gpu = f" ({facts['gpu']})" if facts.get("gpu") else ""
    machine = f"on {facts.get('device')}{gpu}, {facts.get('threads')} threads"
    lines += _wrapped("With", f"Python {facts.get('python')}, torch {facts.get('torch')}, treadle {_version()}; {machine}")
    return lines


def _failure(proof: Proof) -> list[str]:
    assert proof.difference is not None
    lines = _wrapped("First", f"{f'{proof.run}: ' if len(proof.runs) > 1 else ''}{proof.difference}")
    for number, cause in enumerate(proof.causes):
        lines += _wrapped("Likely" if number == 0 else "Or", f"{cause.where}: {cause.what}")
        lines += _wrapped("Advice", cause.advice)
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{head:<11}", subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)


def _version() -> str:
    from importlib.metadata import version

    return version("treadle")
