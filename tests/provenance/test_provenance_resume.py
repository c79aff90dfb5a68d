"""What goes on with a run is compared with what made it: changes are said or refused, and what was accepted is part of the record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import treadle
from treadle.provenance import environment, record
from treadle.provenance.read import read_history, read_provenance

PROGRAM = """
import os, sys
from functools import partial
import torch, treadle
import part

def main(config: treadle.Config) -> treadle.Result:
    data = (torch.full((24, 2), part.VALUE), torch.zeros(24, 1))
    trainer = treadle.Trainer(lambda: torch.nn.Linear(2, 1), torch.nn.MSELoss(), data, optimizer=partial(torch.optim.SGD, lr=part.LR), config=config)
    if os.environ.get("STOP"):
        trainer.on("step_finished", every="2 steps", once=True)(lambda run: os.kill(os.getpid(), 15))
    return trainer.fit()

treadle.main(main, [*sys.argv[1:], "run_dir=results/a", "duration=4 steps", "batch_size=8", "checkpoint.every=1 step"])
"""
PART = "VALUE = 0.5\nLR = 0.1\n"
RUN = Path("results/a")


def start(*words, stop=False):
    env = {**os.environ, "STOP": "1" if stop else "", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "main.py", *words], capture_output=True, text=True, env=env, check=False)


@pytest.fixture
def stopped():
    Path("main.py").write_text(PROGRAM)
    Path("part.py").write_text(PART)
    done = start(stop=True)
    assert done.returncode == 143, done.stderr
    return read_provenance(RUN)


def accepted():
    return [line for event in read_history(RUN) for line in event.get("accepted", ())]


def test_the_same_goes_on_and_both_starts_are_in_the_history(stopped):
    assert start().returncode == 0
    events = [(event["event"], event["step"], event.get("status")) for event in read_history(RUN)]
    assert events == [("started", 0, None), ("ended", 2, "interrupted"), ("started", 2, None), ("ended", 4, "finished")]
    assert read_provenance(RUN) == stopped and not list(RUN.glob("provenance/until-*"))


def test_a_comment_is_said_and_goes_on(stopped):
    Path("part.py").write_text("# the same\n" + PART)
    done = start()
    assert done.returncode == 0 and "code, part.py: " in done.stdout + done.stderr and "(comments and layout only)" in done.stdout + done.stderr
    assert read_provenance(RUN) == stopped and not accepted()
    assert "part.py" in read_history(RUN)[2]["different"][0]


def test_other_code_is_refused_with_both_digests_and_can_be_accepted(stopped):
    before = (RUN / "provenance/record.json").read_bytes()
    Path("part.py").write_text("VALUE = 1 / 2\nLR = 0.1\n")
    refused = start()
    digest = stopped["code"]["files"]["part.py"]["sha256"][:12]
    assert refused.returncode == 1 and f"code, part.py: {digest} -> " in refused.stderr and "--accept-changes" in refused.stderr
    assert (RUN / "provenance/record.json").read_bytes() == before and len(read_history(RUN)) == 2, "a refusal leaves no trace"

    assert start("--accept-changes").returncode == 0
    now = read_provenance(RUN)
    assert [line.partition(" ->")[0] for line in accepted()] == [f"code, part.py: {digest}"]
    assert (RUN / "provenance/until-000002/record.json").read_bytes() == before
    assert (RUN / "provenance/until-000002/code/0/part.py").read_text() == PART
    assert (RUN / "provenance/code/0/part.py").read_text() == Path("part.py").read_text()
    assert now["code"]["files"]["part.py"]["sha256"] not in (digest, "") and record.accepted_changes(RUN)[0].endswith("(at step 2)")


def test_other_data_config_and_optimizer_are_refused_and_accepted(stopped):
    Path("part.py").write_text("VALUE = 0.25\nLR = 0.2\n")
    refused = start("seed=5", "--accept-changes=no")
    assert refused.returncode == 2, "a flag takes no value"
    assert "seed: 0 -> 5" in start("seed=5").stderr
    done = start("seed=5", "--accept-changes")
    assert done.returncode == 0, done.stderr
    lines = "\n".join(accepted())
    assert "config seed: 0 -> 5" in lines and "train data, " in lines and "code, part.py" in lines and "lr" in lines


# --- in this process ---


def fit(run_dir="results/b", duration="2 steps", accept=False, scale=1.0):
    config = treadle.Config(run_dir=run_dir, duration="4 steps", batch_size=2, log=treadle.LogConfig(console="plain"))
    data = (torch.ones(8, 2) * scale, torch.zeros(8, 1))
    trainer = treadle.Trainer(torch.nn.Linear(2, 1), torch.nn.MSELoss(), data, optimizer=torch.optim.SGD, config=config)
    if duration != "4 steps":
        trainer.on("step_finished", every=duration, once=True)(lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
    return trainer.fit(accept_changes=accept)


def cut_short():
    with pytest.raises(KeyboardInterrupt):
        fit()


def test_another_version_of_an_imported_package_is_refused(monkeypatch):
    cut_short()
    other = {**environment.packages(), "torch": "9.9.9"}
    monkeypatch.setattr(environment, "packages", lambda: other)
    with pytest.raises(treadle.errors.RunChanged, match=r"package torch: .* -> 9\.9\.9"):
        fit(duration="4 steps")
    fit(duration="4 steps", accept=True)
    assert read_provenance("results/b")["environment"]["packages"]["torch"] == "9.9.9"


def test_another_machine_is_said_and_goes_on(monkeypatch, capsys):
    cut_short()
    monkeypatch.setattr(environment.socket, "gethostname", lambda: "another")
    fit(duration="4 steps")
    assert "host: " in (said := capsys.readouterr()).out + said.err and "-> another" in said.out + said.err


def test_other_data_is_refused(monkeypatch):
    cut_short()
    with pytest.raises(treadle.errors.RunChanged, match="train data, "):
        fit(duration="4 steps", scale=2.0)


def test_a_damaged_record_stops_nobody(capsys):
    for damage in ("{", "[]", json.dumps({"config": 3, "code": 4}), json.dumps({"config": {}, "code": {"files": {"x": 1}}, "environment": []})):
        cut_short()
        Path("results/b/provenance/record.json").write_text(damage)
        assert fit(duration="4 steps").status == "finished"
        if damage in ("{", "[]"):
            assert "the record of what made the run so far cannot be read" in (said := capsys.readouterr()).out + said.err
            assert Path("results/b/provenance/until-000000/record.json").read_text() == damage
        __import__("shutil").rmtree("results/b")


# --- nothing in here fails a run ---


def test_what_cannot_be_found_out_is_said(monkeypatch, capsys):
    monkeypatch.setattr(record, "environment", lambda device: 1 / 0)
    assert fit(duration="4 steps").status == "finished"
    assert "is not recorded: ZeroDivisionError" in (said := capsys.readouterr()).out + said.err
    assert not Path("results/b/provenance/record.json").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), TypeError("no JSON")])
def test_what_cannot_be_written_is_said(monkeypatch, capsys, error):
    def fail(*given):
        raise error

    monkeypatch.setattr(record, "write_json", fail)
    assert fit(duration="4 steps").status == "finished"
    assert "the record of the run cannot be written" in (said := capsys.readouterr()).out + said.err


def test_a_working_folder_that_is_gone_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert record.own_code().facts["notes"] == []
