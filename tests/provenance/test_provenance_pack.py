"""A run in one file: what goes in comes out, and whatever is wrong with the file is said before anything is used."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from records import repository, write_provenance
from treadle.core.errors import RunFolderError, UsageError
from treadle.provenance.pack import MANIFEST, pack
from treadle.provenance.unpack import unpack

SECRET = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2"


def commit(root):
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, env={**os.environ, **own})
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def run(tmp_path):
    """A run folder of files that are short enough to be looked for in the archive."""
    folder = tmp_path / "results/ä 1"
    for name in ("checkpoints/step-000002", "checkpoints/step-000004", "tensorboard", ".code.tmp"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(name.encode() * 99)
    (folder / "run.json").write_text('{"status": "finished", "steps": 4}')
    (folder / "config.yaml").write_text("lr: 0.1\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "link").symlink_to("/etc/passwd")
    write_provenance(folder)
    return folder


@pytest.fixture
def archive(run, tmp_path):
    pack(run, tmp_path / "a.zip", ["step-000004"])
    return tmp_path / "a.zip"


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(archive, change):
    """The archive with other files: `change` gets them by name."""
    with zipfile.ZipFile(archive) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    change(files)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name, data)


def told(archive, change):
    """The archive with another manifest."""

    def write(files):
        manifest = json.loads(files[MANIFEST])
        change(manifest)
        files[MANIFEST] = json.dumps(manifest).encode()

    changed(archive, write)


def test_what_goes_in_comes_out(run, archive, tmp_path):
    into = tmp_path / "into"
    folder = unpack(archive, into)
    assert folder == into / "ä 1"
    kept = {name: data for name, data in content(run).items() if not name.startswith(("tensorboard", ".code", "checkpoints/step-000002", "link"))}
    assert content(folder) == kept and "checkpoints/step-000004/file" in kept


def test_capsules_hold_data_and_go_with_it_only_where_that_is_asked(run, tmp_path):
    (run / "capsules/step-000003").mkdir(parents=True)
    (run / "capsules/step-000003/batch.safetensors").write_bytes(b"data")
    for asked in (False, True):
        pack(run, tmp_path / f"{asked}.zip", [], capsules=asked)
        with zipfile.ZipFile(tmp_path / f"{asked}.zip") as opened:
            assert ("capsules/step-000003/batch.safetensors" in opened.namelist()) is asked


def test_the_files_of_the_commit_go_with_it_whatever_attributes_say(run, tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (root / ".gitattributes").write_text("left.py export-ignore\nmain.py export-subst\n")
    (root / "left.py").write_text("left")
    (root / "main.py").write_text("# $Format:%H$")
    before = commit(root)
    write_provenance(run, code={"repositories": [repository(root=str(root), commit=before)], "files": {}})
    (root / "main.py").write_text("changed since")
    assert pack(run, tmp_path / "b.zip", []) == []
    folder = unpack(tmp_path / "b.zip", tmp_path / "into")
    subprocess.run(["tar", "-xf", folder / "provenance/code/0.tar"], cwd=tmp_path, check=True)
    assert Path("left.py").read_text() == "left" and Path("main.py").read_text() == "# $Format:%H$"
    assert (root / "main.py").read_text() == "changed since" and not (root / ".git/worktrees").exists()


def test_a_commit_that_is_gone_or_holds_a_secret_is_told(run, tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (root / "key.py").write_text(SECRET)
    entries = [repository(root=str(root), commit=commit(root)), repository(root=str(tmp_path / "nowhere"))]
    write_provenance(run, code={"repositories": entries, "files": {}})
    secret, gone = sorted(pack(run, tmp_path / "b.zip", []), reverse=True)
    assert secret.startswith("warning: key.py of commit") and SECRET not in secret
    assert "111111111111" in gone and "is not in the archive" in gone


@pytest.mark.parametrize("name", ["config.yaml", "provenance/record.json", "provenance/code/0.patch", "metrics.jsonl"])
def test_a_secret_in_the_run_is_refused_and_leaves_no_file(run, tmp_path, name):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(f'{{"a": "{SECRET}"}}\n')
    with pytest.raises(UsageError, match=name) as caught:
        pack(run, tmp_path / "b.zip", [])
    assert SECRET not in str(caught.value) and not list(tmp_path.glob("*.zip*")) and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("name", ["provenance/code/files/notes.ipynb", "provenance/code/files/.env", "capsules/step-000003/state.json"])
def test_copies_and_capsules_are_searched_whatever_they_are_called(run, tmp_path, name):
    (run / name).parent.mkdir(parents=True)
    (run / name).write_text(json.dumps({"cells": ["import a\n", 'api_key = "abcd1234efgh5678"\n']}))
    with pytest.raises(UsageError, match=name):
        pack(run, tmp_path / "b.zip", [], capsules=True)


def test_what_the_record_withholds_of_the_config_is_not_packed(run, tmp_path):
    (run / "config.yaml").write_text("lr: .nan\nhub:\n  token: mysecrettoken\n  name: ordinary\npad_token: '<pad>'\n")
    with pytest.raises(UsageError, match=r"config\.yaml \(hub\.token\)") as caught:
        pack(run, tmp_path / "b.zip", [])
    assert "mysecrettoken" not in str(caught.value) and not list(tmp_path.glob("*.zip*"))


# --- an archive that is not what it was ---


def test_cut_anywhere_or_with_any_byte_changed_it_is_refused_or_the_same(archive, tmp_path):
    whole, sound = archive.read_bytes(), content(unpack(archive, tmp_path / "sound"))
    damages = [whole[:length] for length in range(0, len(whole), 41)]
    damages += [whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :] for place in range(0, len(whole), 7)]
    refused = 0
    for number, damaged in enumerate(damages):
        archive.write_bytes(damaged)
        try:
            assert content(unpack(archive, tmp_path / f"{number}")) == sound
        except RunFolderError:
            refused += 1
    assert refused > len(damages) // 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files.pop(MANIFEST), "there is no manifest.json in it"),
        (lambda files: files.update({MANIFEST: b"{}"}), "is none of treadle pack"),
        (lambda files: files.update({MANIFEST: b"[" * 100_000}), "no archive of a run"),
        (lambda files: files.pop("config.yaml"), "config.yaml"),
        (lambda files: files.update({"config.yaml": b"lr: 0.2\n"}), "config.yaml is damaged"),
        (lambda files: files.update({"config.yaml": b"0" * 10**7}), "config.yaml is larger than it was"),
    ],
)
def test_another_content_is_refused(archive, tmp_path, change, words):
    changed(archive, change)
    with pytest.raises(RunFolderError, match=words):
        unpack(archive, tmp_path / "into")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.update(format=2), "its format is 2"),
        (lambda told: told.update(run=".."), "the run's name is '..'"),
        (lambda told: told.update(run="a/b"), "the run's name is 'a/b'"),
        (lambda told: told.update(run=""), "the run's name is ''"),
        (lambda told: told.update(files=[]), "no archive of a run"),
        (lambda told: told["files"].update({"../x": told["files"]["config.yaml"]}), "outside of its folder"),
        (lambda told: told["files"].update({"/x": told["files"]["config.yaml"]}), "outside of its folder"),
        (lambda told: told["files"].update({"..\\x": told["files"]["config.yaml"]}), "outside of its folder"),
        (lambda told: told["files"]["config.yaml"].update(size=-1), "is negative"),
        (lambda told: told["files"]["config.yaml"].update(size=2**60), "are free on the disk"),
        (lambda told: told["files"].pop("run.json"), "holds no run"),
    ],
)
def test_another_manifest_is_refused(archive, tmp_path, change, words):
    told(archive, change)
    with pytest.raises(RunFolderError, match=words):
        unpack(archive, tmp_path / "into")
    assert not (tmp_path / "x").exists()


def test_what_the_manifest_does_not_name_stays_in_the_archive_and_a_link_becomes_a_file(archive, tmp_path):
    with zipfile.ZipFile(archive, "a") as opened:
        link = zipfile.ZipInfo("evil")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
        opened.writestr("../evil", "x")
    assert not (unpack(archive, tmp_path / "into") / "evil").exists()
    assert not any(path.is_symlink() for path in (tmp_path / "into").rglob("*"))


def test_what_is_no_archive_is_refused(tmp_path):
    for data in (b"", b"text", b"PK\x05\x06" + b"\0" * 18):
        (tmp_path / "no.zip").write_bytes(data)
        with pytest.raises(RunFolderError, match="no archive of a run"):
            unpack(tmp_path / "no.zip", tmp_path / "into")
