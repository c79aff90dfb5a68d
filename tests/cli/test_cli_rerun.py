"""`treadle rerun` and `treadle pack`: the recorded code runs, in a place of its own, and the verdict says what it found."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from treadle.cli.main import main

PROGRAM = """\
import os, signal, sys
from pathlib import Path
import torch
import treadle
from model import SCALE

if "GONE" in os.environ:
    raise SystemExit("there is no GPU")
if sys.argv[1] == "noisy":
    SCALE += int.from_bytes(os.urandom(4), "big") / 2**32
data = torch.arange(24.0).reshape(8, 3) * float(Path("data/scale.txt").read_text()), torch.ones(8, 1)
config = treadle.Config(
    run_dir=f"results/{sys.argv[1]}", duration="3 steps", batch_size=2, machine=treadle.MachineConfig(device="cpu"),
    log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
)
with treadle.Run(config) as run:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(data):
        for x, y in step:
            step.backward(torch.nn.functional.mse_loss(model(x) * SCALE, y))
        step.update(optimizer)
        if "STOPPED" in os.environ:
            os.kill(os.getppid(), signal.SIGTERM)
            signal.pause()
"""
GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_OPTIONAL_LOCKS": "0"}


def ask(root, *words):
    named = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *named, *words], cwd=root, check=True, capture_output=True, text=True, env={**os.environ, **GIT}).stdout.strip()


def train(root, name):
    subprocess.run([sys.executable, "main.py", name], cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with uncommitted changes, a run of it, and then other changes."""
    root = tmp_path_factory.mktemp("project") / "my prö ject"
    (root / "data").mkdir(parents=True)
    (root / "data/scale.txt").write_text("0.5")
    (root / "main.py").write_text(PROGRAM)
    (root / "model.py").write_text("SCALE = 1.0\n")
    (root / ".gitignore").write_text("data\nresults\n__pycache__\n")
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "one"]):
        ask(root, *words)
    (root / "model.py").write_text("SCALE = 2.0\n")
    train(root, "a")
    train(root, "noisy")
    (root / "model.py").write_text("SCALE = 3.0\n")
    return root


@pytest.fixture
def project(made, monkeypatch):
    monkeypatch.chdir(made)
    yield made
    for left in ("a-again", "noisy-again", "edited"):
        shutil.rmtree(made / "results" / left, ignore_errors=True)


def said(capsys, *words, code):
    assert main(["rerun", *words]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out or err


def state_of(root):
    """Everything of the user's that could be seen to change."""
    skipped = ("results/", "__pycache__/")
    files = {name: path.lstat().st_mtime_ns for path in root.rglob("*") if not (name := str(path.relative_to(root))).startswith(skipped)}
    return {name: time for name, time in files.items() if (root / name).is_file()}, ask(root, "worktree", "list"), ask(root, "status", "--short")


def edited(project, name, old, new):
    """A copy of the run with something changed by hand."""
    shutil.copytree(project / "results/a", project / "results/edited", dirs_exist_ok=True)
    path = project / "results/edited" / name
    path.write_text(path.read_text().replace(old, new))
    return "results/edited"


def test_what_changed_since_does_not_matter_and_nothing_of_the_users_changes(project, capsys):
    before = state_of(project)
    text = said(capsys, "results/a", code=0)
    assert text.startswith("results/a: identical to the bit\n  compared   3 journal rows")
    assert "although" not in text and "linked as it is now" in text and "data" in text
    assert (project / "results/a-again/run.json").is_file() and state_of(project) == before


def test_the_first_value_that_differs_is_named_with_its_step(project, capsys):
    told = json.loads(said(capsys, "results/noisy", "--json", code=1))
    assert told["identical"] is False and told["difference"]["step"] == 1 and told["difference"]["where"] == "'train/loss' in the journal"
    assert told["difference"]["one"] != told["difference"]["other"] and told["problems"] == []


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("config.yaml", "batch_size: 2", "batch_size: 3", ["config.yaml is not as the run left it"]),
        ("metrics.jsonl", '"step": 1', '"step": 9', ["metrics.jsonl is not as the run left it"]),
        ("run.json", '"steps": 3', '"steps": 2', ["run.json is not as the run left it"]),
        ("provenance/record.json", '"torch": "', '"torch": "0.', ["provenance/record.json is not as", "package torch: 0."]),
        ("provenance/code/0.patch", "SCALE = 2.0", "SCALE = 7.0", ["0.patch is not as the run left it", "model.py, which the run imported, is"]),
        ("provenance/code/0.patch", "-SCALE = 1.0", "-SCALE = 7.0", ["cannot be brought back: error: patch failed: model.py"]),
        ("run.json", "{", "", ["its run.json is damaged"]),
        ("provenance/record.json", "{", "", ["record.json is no JSON"]),
        ("provenance/record.json", '"repositories": [', '"repositories": [3, ', ["record.json is damaged"]),
    ],
)  # fmt: skip
def test_what_somebody_edited_is_refused_and_nothing_runs(project, capsys, name, old, new, words):
    text = said(capsys, edited(project, name, old, new), code=1)
    assert text.startswith("treadle rerun: ") and all(part in text for part in words), text
    assert not (project / "results/edited-again").exists() and len(ask(project, "worktree", "list").splitlines()) == 1


def test_a_commit_that_is_gone_is_refused_and_anyway_says_what_was_accepted(project, capsys):
    (project / ".git").rename(project / ".away")
    try:
        text = said(capsys, "results/a", code=1)
        assert "cannot be had: it is in no repository here; --repo DIR says where another copy of it is" in text and "--anyway" in text
        text = said(capsys, "results/a", "--anyway", "--into", "results/edited", code=1)
    finally:
        (project / ".away").rename(project / ".git")
    assert text.startswith("results/a: not the same\n  first      ") and "then, " in text
    assert "although   commit " in text and "although   model.py, which the run imported, is not as it was" in text


def test_an_archive_is_made_again_where_there_is_no_repository(project, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    assert main(["pack", "results/a", "-o", str(tmp_path / "elsewhere/a.zip")]) == 0
    capsys.readouterr()
    away = project.with_name("away")
    project.rename(away)
    try:
        os.chdir(tmp_path / "elsewhere")
        text = said(capsys, "a.zip", code=1)  # the data is not in the archive
        assert "it could not be made again" in text and "FileNotFoundError" in text and "data/scale.txt" in text
        (project / "data").mkdir(parents=True)
        (project / "data/scale.txt").write_text("0.5")
        assert said(capsys, "a.zip", code=0).startswith("a.zip: identical to the bit")
        assert (tmp_path / "elsewhere/a-again/run.json").is_file()
    finally:
        shutil.rmtree(project, ignore_errors=True)
        away.rename(project)


def test_an_archive_without_checkpoints_is_compared_by_their_digests(project, tmp_path, capsys):
    assert main(["pack", "results/a", "-o", str(tmp_path / "a.zip"), "--checkpoints", "none"]) == 0
    capsys.readouterr()
    text = said(capsys, str(tmp_path / "a.zip"), code=0)
    assert "identical to the bit" in text and "only digests could be compared" in text and "checkpoints" in text.splitlines()[1], text


def test_a_program_that_fails_at_once_says_why(project, capsys, monkeypatch):
    monkeypatch.setenv("GONE", "1")
    assert said(capsys, "results/a", code=1).startswith("results/a: it could not be made again\n  it said    there is no GPU")


def test_sigterm_leaves_nothing_behind(project, tmp_path):
    before = state_of(project)
    variables = {**os.environ, "STOPPED": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "treadle", "rerun", "results/a"], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM and "Traceback" not in done.stderr
    assert state_of(project) == before and list(tmp_path.iterdir()) == [] and not (project / "results/a-again").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["results/nix"], "there is no folder 'results/nix'"),
        (["results"], "is no run folder, but holds"),
        (["main.py"], "is no archive of a run"),
        (["results/a", "--into", "results/noisy"], "is there already"),
        (["results/a", "--repo", "nowhere"], "--repo: there is no folder 'nowhere'"),
        (["results/a", "--at", "nix"], "--at: there is no commit 'nix'"),
    ],
)
def test_a_wrong_word_is_a_message(project, capsys, words, message):
    assert message in said(capsys, *words, code=1)
