"""`treadle diff`: what differs between two runs, and where their results part."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from rich.text import Text
from torch import nn

import treadle
from records import HASH, environment, event, record, repository, write_provenance
from treadle.cli.differences import first_difference, git_stat
from treadle.cli.main import main
from treadle.provenance.read import read_history, read_provenance


def train(folder, lr=0.1, seed=0, **given):
    """A run of two epochs, three steps each."""
    data = torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), torch.ones(24, 1)
    others = tuple(column + 1 for column in data)
    config = treadle.Config(
        run_dir=folder,
        duration="2 epochs",
        batch_size=8,
        seed=seed,
        machine=treadle.MachineConfig(device="cpu"),
        log=treadle.LogConfig(console="quiet", tensorboard=False, every="1 step"),
        **given,
    )
    return treadle.Trainer(lambda: nn.Linear(3, 1), nn.MSELoss(), data, valid=others, optimizer=partial(torch.optim.SGD, lr=lr), config=config).fit()


@pytest.fixture
def two():
    """Two runs that are the same, and say so."""
    train("results/a")
    write_provenance("results/a", [event("started", "18:00:00"), event("ended", "18:01:05")])
    shutil.copytree("results/a", "results/b")


def said(capsys, *words, code=0, stream="out"):
    assert main(["diff", *words]) == code
    out, err = capsys.readouterr()
    assert (err if stream == "out" else out) == "" and "Traceback" not in err
    return out if stream == "out" else err


def told(capsys, *words):
    return json.loads(said(capsys, "results/a", "results/b", "--json", *words, code=1))


def journal(folder, *rows):
    Path(folder, "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- nothing differs ---


def test_equal_runs_have_a_line_a_part_and_end_with_0(two, capsys):
    assert said(capsys, "results/a", "results/b").splitlines() == [
        "a = results/a: finished, 6 steps in 1:05",
        "b = results/b: finished, 6 steps in 1:05",
        *(f"{part}: the same" for part in ("config", "code", "environment", "data", "command")),
        "results: the same: the journals are equal to the bit, times and throughput left out",
    ]
    shown = json.loads(said(capsys, "results/a", "results/b", "--json"))
    assert shown["same"] is True and shown["results"]["first_difference"] == {}


def test_clocks_and_the_name_of_the_folder_do_not_count(two, capsys):
    train("results/c")
    write_provenance("results/c", [event("started", "18:00:00")])
    assert read_provenance("results/c") == record() and [line["event"] for line in read_history("results/c")] == ["started"]
    assert "results: the same" in said(capsys, "results/a", "results/c")


def test_nothing_is_changed_by_looking(two, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")}
    said(capsys, "results/a", "results/b")
    assert {path: path.stat().st_mtime_ns for path in Path("results").rglob("*")} == before


# --- each part ---


def test_config_gives_both_values_of_what_changed(capsys):
    train("results/a")
    train("results/b", seed=1, clip=0.5)
    shown = told(capsys)
    assert shown["config"]["differences"] == {"seed": [0, 1], "clip": ["null", 0.5]} and shown["same"] is False
    out = said(capsys, "results/a", "results/b", code=1)
    assert "config: 2 differences\n\ta\tb\nseed\t0\t1\nclip\tnull\t0.5\n" in out


def test_code_names_files_and_tells_comments_apart(two, capsys):
    files = {"src/main.py": {"sha256": "b" * 64, "meaning": "m"}, "src/new.py": {"sha256": HASH, "meaning": "n"}}
    code = {"repositories": [repository(commit="2" * 40, patch="code/0.patch", patch_sha256="x", changed=["src/main.py"])], "files": files}
    write_provenance("results/b", code=code)
    assert told(capsys)["code"]["differences"] == {
        "commit": ["111111111111 on main", "222222222222 on main"],
        "uncommitted changes": ["none", "src/main.py"],
        "src/main.py": ["aaaaaaa (comments only)", "bbbbbbb (comments only)"],
        "src/new.py": [None, "aaaaaaa"],
    }


def test_commits_that_are_there_are_compared_by_git(two, capsys):
    git = ["git", "-C", "project", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "init", "-q", "project"], check=True)
    commits = []
    for text in ("one\n", "two\n"):
        Path("project/model.py").write_text(text)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", text], check=True)
        commits.append(subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip())
    for name, commit in zip("ab", commits, strict=True):
        write_provenance(f"results/{name}", code={"repositories": [repository(root=str(Path("project").absolute()), commit=commit)]})
    assert any("model.py | 2 +-" in line for line in told(capsys)["code"]["more"])
    assert git_stat("project", commits[0], "3" * 40) == git_stat("nowhere", *commits) == git_stat("project", "--output=x", "y") == []
    assert not Path("project/x").exists()


def test_environment_names_packages_that_were_imported_first(two, capsys):
    changed = environment(python="3.12.1", variables={}, packages={"aaa": "2", "numpy": "2.2.0", "zzz": "1"})
    write_provenance("results/b", environment=changed)
    found = told(capsys)["environment"]["differences"]
    assert list(found) == ["python", "$OMP_NUM_THREADS", "numpy", "aaa", "zzz"]
    assert found["numpy"] == ["2.1.0", "2.2.0"] and found["zzz"] == [None, "1"] and found["$OMP_NUM_THREADS"] == ["4", None]


def test_data_is_compared_by_length_and_by_the_items_that_both_read(two, capsys):
    data = {
        "train": {"kind": "tensors", "type": "tuple", "length": 54000, "seed": 0, "hashes": {"0": "aa", "7": "xx", "9": "yy"}},
        "valid": {"length": 1},
    }
    write_provenance("results/b", data=data)
    assert told(capsys)["data"]["differences"] == {
        "train length": ["55,000", "54,000"],
        "train items": ["bb (item 7; 1 of 2 differ)", "xx (item 7; 1 of 2 differ)"],
        "valid": [None, "recorded"],
    }


def test_random_items_of_other_seeds_are_not_compared(two, capsys):
    facts = record()["data"]["train"]
    write_provenance("results/b", data={"train": {**facts, "random": True, "seed": 1, "hashes": {"0": "zz"}}})
    assert "data: the same" in said(capsys, "results/a", "results/b")


def test_the_command_is_told_and_counts_for_nothing(two, capsys):
    write_provenance("results/b", command=["python", "src/main.py", "name=two words"])
    assert "command\tpython src/main.py lr=0.1\tpython src/main.py 'name=two words'" in said(capsys, "results/a", "results/b")


def test_what_is_not_recorded_is_not_compared_and_said(capsys):
    for name in ("results/a", "results/b"):
        train(name)
        shutil.rmtree(Path(name, "provenance"))
    out = said(capsys, "results/a", "results/b")
    assert "code: the same\n" in out  # by the digest that every run has
    assert "environment: not compared: not recorded by results/a and results/b\n" in out
    run = json.loads(Path("results/b/run.json").read_text())
    Path("results/b/run.json").write_text(json.dumps({**run, "code": "other"}))
    assert "which files differ is not recorded by results/a and results/b" in said(capsys, "results/a", "results/b", code=1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"code": 3, "data": [], "environment": 7, "command": {}}'])
def test_a_damaged_record_is_not_compared(two, content, capsys):
    Path("results/b/provenance/record.json").write_text(content)
    out = said(capsys, "results/a", "results/b")
    assert "data: not compared: not recorded by results/b" in out and ("damaged: results/b" in out) == (content[:3] != '{"c')


# --- results ---


def test_results_stand_side_by_side_and_the_first_step_that_differs_is_named(capsys):
    train("results/a")
    train("results/b", lr=0.3)
    shown = told(capsys)
    mine, his = ([row["train/loss"] for row in treadle.read_journal(f"results/{name}")] for name in "ab")
    assert mine[0] == his[0] and mine[1] != his[1]
    assert shown["results"]["first_difference"] == {"train/loss": [mine[1], his[1]]}
    assert shown["results"]["more"] == [f"the journals differ from step 2 on: train/loss {mine[1]!r} and {his[1]!r}"]
    assert shown["results"]["last_values"]["train/loss"] == {"values": [mine[-1], his[-1]], "difference": his[-1] - mine[-1]}
    out = said(capsys, "results/a", "results/b", code=1)
    assert "value\ta\tb\tdifference\n" in out and "⠤" not in out and "time/" not in out


def test_on_a_terminal_both_are_drawn_on_the_same_axes(capsys, monkeypatch):
    train("results/a")
    train("results/b", lr=0.3)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines = Text.from_ansi(said(capsys, "results/a", "results/b", code=1)).plain.splitlines()
    assert "loss   ⠤⠤ a train/loss   ⠤⠤ a valid/loss   ⠤⠤ b train/loss   ⠤⠤ b valid/loss" in lines
    assert sum(line.startswith("            step ") for line in lines) == 1 and max(map(cell_len, lines)) <= 100


@pytest.mark.parametrize(
    ("mine", "his", "found"),
    [
        ([{"step": 1, "x": 0.0}], [{"step": 1, "x": -0.0}], (1, [("x", 0.0, -0.0)])),
        ([{"step": 1, "x": float("nan")}], [{"step": 1, "x": float("nan"), "wall": 3, "time/s": 2}], None),
        ([{"step": 1}, {"step": 2}], [{"step": 1}], (2, [("a row", "logged", None)])),
        ([{"step": 1}, {"step": 3}], [{"step": 1}, {"step": 2}, {"step": 3}], (2, [("a row", None, "logged")])),
        ([{"step": 1, "x": 1}], [{"step": 1, "y": 1}], (1, [("x", 1, None), ("y", None, 1)])),
        ([], [], None),
    ],
)
def test_journals_are_compared_to_the_bit(mine, his, found):
    for name, rows in (("a", mine), ("b", his)):
        Path(name).mkdir()
        journal(name, *rows)
    assert repr(first_difference(Path("a"), Path("b"))) == repr(found)


def test_a_run_that_ended_before_is_equal_up_to_there(two, capsys):
    rows = list(treadle.read_journal("results/a"))
    journal("results/b", *rows[:4])
    assert "the journals are equal up to step 5, which b has no row for" in said(capsys, "results/a", "results/b", code=1)
    journal("results/b")
    assert "equal up to step 1, which b has no row for" in said(capsys, "results/a", "results/b", code=1)
    journal("results/a")
    assert "results: the same" in said(capsys, "results/a", "results/b")


def test_values_that_are_no_numbers_have_a_row_too(two, capsys):
    journal("results/a", {"step": 1, "valid/loss": float("nan"), "valid/other": 0.0})
    journal("results/b", {"step": 1, "valid/loss": 1.0, "valid/third": float("inf")})
    out = said(capsys, "results/a", "results/b", code=1)
    assert "valid/loss\tnan\t1\t+nan\n" in out and "valid/other\t0\t-\t\n" in out and "valid/third\t-\tinf\t\n" in out
    assert told(capsys)["results"]["last_values"]["valid/loss"] == {"values": [None, 1.0], "difference": None}


def test_values_chooses_what_is_shown_and_a_misspelt_one_gets_the_nearest(two, capsys):
    out = said(capsys, "results/a", "results/b", "--values", "time/step_s")
    assert "time/step_s\t" in out and "train/loss" not in out
    err = said(capsys, "results/a", "results/b", "--values", "valid/los", code=2, stream="err")
    assert "neither 'results/a' nor 'results/b' has values named 'valid/los'; did you mean 'valid/loss'?" in err


def test_a_damaged_journal_is_said_and_the_rest_is_compared(two, capsys):
    Path("results/b/metrics.jsonl").write_text("x\n")
    out = said(capsys, "results/a", "results/b", code=1)
    assert "config: the same" in out and "results: not compared: line 1 of results/b/metrics.jsonl is damaged" in out


# --- the command line ---


def test_both_go_into_one_picture(two, capsys):
    assert said(capsys, "results/a", "results/b", "-o", "new/both.svg").splitlines()[-1] == "new/both.svg"
    drawn = Path("new/both.svg").read_text()
    assert "a: train/loss" in drawn and "b: valid/loss" in drawn
    assert "its name must end in" in said(capsys, "results/a", "results/b", "-o", "both.gif", code=2, stream="err")


def test_a_run_and_itself_can_be_told_apart(two, capsys):
    assert said(capsys, "results/a", "results/a").startswith("a (1) = results/a: finished")


@pytest.mark.parametrize(
    ("words", "message"), [(["results/a", "nowhere"], "there is no folder 'nowhere'"), (["results", "results/a"], "is no run folder, but holds")]
)
def test_what_is_no_run_ends_with_2(two, words, message, capsys):
    assert message in said(capsys, *words, code=2, stream="err")


def test_it_is_no_command_line_without_two_runs(capsys):
    with pytest.raises(SystemExit) as end:
        main(["diff", "results/a"])
    assert end.value.code == 2
