"""The code of a run is brought back to the byte, and nothing of the user's is changed by it."""

import hashlib
import os
import subprocess
from contextlib import contextmanager

import pytest

from records import record, repository
from treadle.core.errors import UsageError
from treadle.provenance import git
from treadle.provenance.restore import restored


def ask(root, *words):
    """What git says; with no settings of whoever runs the tests."""
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    named = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
    return subprocess.run(["git", *named, *words], cwd=root, check=True, capture_output=True, text=True, env={**os.environ, **own}).stdout.strip()


def write(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_py", ".py").replace("_bin", ".bin")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def commit(root, **files):
    write(root, **files)
    if not (root / ".git").exists():
        ask(root, "init", "-q", "-b", "main")
    ask(root, "add", "-A")
    ask(root, "commit", "-q", "-m", "one")
    return ask(root, "rev-parse", "HEAD")


def sha(content):
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def entry(root, folder, number=0, untracked=(), **facts):
    """What the record of a run says of a repository as it is now, with its files in the run folder."""
    patch = git.patch(root, git.changed(root))
    copies = {name: sha((root / name).read_bytes()) for name in untracked}
    for name in untracked:
        (folder / "code" / str(number) / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "code" / str(number) / name).write_bytes((root / name).read_bytes())
    if patch:
        (folder / "code").mkdir(parents=True, exist_ok=True)
        (folder / "code" / f"{number}.patch").write_bytes(patch)
        facts = {"patch": f"code/{number}.patch", "patch_sha256": sha(patch), **facts}
    usual = {"root": str(root), "commit": git.commit_of(root), "changed": git.changed(root), "untracked": list(untracked), "copies": copies}
    return repository(**{**usual, **facts})


def made_of(*entries, cwd=None, files=None):
    return record(cwd=str(cwd or entries[0]["root"]), code={"repositories": list(entries), "files": files or {}, "paths": [], "notes": []})


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "my prö ject"
    root.mkdir()
    commit(root, main_py="one\n", deep__model_py="model\n", scale_bin=b"\x00\x01\xff", gone_py="gone\n")
    return root


@pytest.fixture
def folder(tmp_path):
    """Where the run's `provenance/` is."""
    place = tmp_path / "run" / "provenance"
    place.mkdir(parents=True)
    return place


@contextmanager
def brought_back(facts, folder, tmp_path, **more):
    into = tmp_path / "into"
    into.mkdir(exist_ok=True)
    with restored(facts, folder, into, **more) as found:
        yield found


def state_of(root):
    """Everything that a user could see change: what git knows, and each file with its time."""
    files = {str(path.relative_to(root)): path.lstat().st_mtime_ns for path in sorted(root.rglob("*")) if path.is_file()}
    return files, ask(root, "for-each-ref"), ask(root, "worktree", "list"), ask(root, "stash", "list")


# --- what is there ---


def test_a_dirty_tree_is_brought_back_to_the_byte(project, folder, tmp_path):
    write(project, main_py="two\n", scale_bin=b"\x00\x07\xff\n", staged_py="staged\n", **{"new ä_py": "new\n"})
    (project / "gone.py").unlink()
    ask(project, "add", "staged.py")
    facts = made_of(entry(project, folder, untracked=["new ä.py"]), files={"main.py": {"sha256": sha("two\n")}})
    write(project, main_py="three\n", scale_bin=b"other", deep__model_py="other\n", **{"new ä_py": "other\n"})
    before = state_of(project)
    with brought_back(facts, folder, tmp_path) as found:
        place = found.place(project)
        assert found.problems == [] and found.notes == []
        assert (place / "main.py").read_text() == "two\n" and (place / "scale.bin").read_bytes() == b"\x00\x07\xff\n"
        assert (place / "deep/model.py").read_text() == "model\n" and (place / "staged.py").read_text() == "staged\n"
        assert (place / "new ä.py").read_text() == "new\n" and not (place / "gone.py").exists()
    assert state_of(project) == before


def test_hooks_do_not_run_and_settings_of_the_user_do_not_matter(project, folder, tmp_path):
    hook = project / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/hooked'\n")
    hook.chmod(0o755)
    for name, value in {"diff.noprefix": "true", "diff.context": "0", "core.quotePath": "true", "submodule.recurse": "true"}.items():
        ask(project, "config", name, value)
    write(project, main_py="two\n")
    with brought_back(made_of(entry(project, folder)), folder, tmp_path) as found:
        assert found.problems == [] and (found.place(project) / "main.py").read_text() == "two\n"
    assert not (tmp_path / "hooked").exists()


def test_a_submodule_with_changes_is_brought_back_within_its_repository(project, folder, tmp_path):
    library = tmp_path / "library"
    library.mkdir()
    commit(library, sub_py="one\n")
    ask(project, "submodule", "add", "-q", str(library), "vendor")
    ask(project, "commit", "-q", "-m", "two")
    write(project, vendor__sub_py="two\n")
    facts = made_of(entry(project, folder), entry(project / "vendor", folder, number=1))
    write(project, vendor__sub_py="three\n")
    with brought_back(facts, folder, tmp_path) as found:
        assert found.problems == [] and (found.place(project) / "vendor/sub.py").read_text() == "two\n"
    assert len(ask(project / "vendor", "worktree", "list").splitlines()) == 1


def test_data_is_linked_where_the_code_finds_it_and_code_of_today_is_not(project, folder, tmp_path):
    write(project, **{".gitignore": "data\nout\n"}, data__x_txt="x", data__loader_py="loader", today_py="today")
    write(tmp_path, beside__y_txt="y")
    run = project / "out/001/provenance"
    run.mkdir(parents=True)
    write(project, out__002__z_txt="z")
    facts = made_of(entry(project, run, untracked=["data/loader.py"]))
    with brought_back(facts, run, tmp_path) as found:
        place = found.place(project)
        assert (place / "data/x_txt").read_text() == "x" and (place / "../beside/y_txt").read_text() == "y"
        assert (place / "data/loader.py").read_text() == "loader" and not (place / "data/loader.py").is_symlink()
        assert not (place / "today.py").exists()
        assert not (place / "out").is_symlink() and not (place / "out/001").exists() and (place / "out/002").is_symlink()
        assert "data/x_txt" in found.notes[0]
    assert (project / "data/x_txt").exists()


def test_a_file_beside_the_code_is_copied_and_what_is_too_large_is_linked_and_named(project, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("treadle.provenance.surroundings.LARGEST_COPY", 5)
    write(project, **{".gitignore": "*.pt\nresults\n*.bin\n"}, final_pt="old", big_bin="too large", results__x="x", pkg__deep_pt="deep", pkg__a_py="")
    ask(project, "mv", "main.py", "pkg/main.py")
    (project / "final.pt").write_text("old")
    (project / "pkg/deep.pt").write_text("deep")
    with brought_back(made_of(entry(project, folder)), folder, tmp_path) as found:
        place = found.place(project)
        for name in ("final.pt", "pkg/deep.pt"):
            (place / name).write_text("new")
        assert (place / "big.bin").is_symlink() and (place / "results").is_symlink()
        copied, linked = sorted(note for note in found.notes if "as it is now in" in note)
        assert "copied" in copied and "final.pt" in copied and "linked" in linked and "big.bin" in linked and "final.pt" not in linked
    assert (project / "final.pt").read_text() == "old" and (project / "pkg/deep.pt").read_text() == "deep"


def test_without_git_the_copies_are_used_and_the_folder_of_the_start_is_mirrored(folder, tmp_path):
    start, code = tmp_path / "start", tmp_path / "code"
    write(tmp_path, start__d_txt="d", code__main_py="one\n", code__pkg____init___py="")
    facts = repository(root=str(code), commit=None, untracked=["main.py"])
    write(folder, code__0__main_py="one\n")
    write(code, main_py="two\n")
    with brought_back(made_of(facts, cwd=start), folder, tmp_path) as found:
        place = found.place(start)
        assert (place / "../code/main.py").read_text() == "one\n" and (place / "d_txt").read_text() == "d"
        assert found.moved(f"data={code}/x") == f"data={found.place(code)}/x" and found.moved("/else/x") == "/else/x"


def test_git_lfs_content_is_linked_where_it_is_the_same_and_missed_where_it_is_not(project, folder, tmp_path):
    content = b"large" * 999
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha(content)}\nsize {len(content)}\n"
    commit(project, **{".gitattributes": "*.bin filter=lfs diff=lfs\n"}, a_bin=pointer, b_bin=pointer.replace(sha(content), "0" * 64))
    (project / "a.bin").write_bytes(content)
    facts = made_of(entry(project, folder, patch=None, changed=[]))
    with brought_back(facts, folder, tmp_path) as found:
        assert (found.place(project) / "a.bin").read_bytes() == content
        assert len(found.problems) == 1 and "b.bin" in found.problems[0] and "git lfs fetch" in found.problems[0]


# --- another commit, another repository ---


def test_at_takes_another_commit_and_nothing_that_was_not_committed(project, folder, tmp_path):
    write(project, main_py="two\n", new_py="of the run\n")
    facts = made_of(entry(project, folder, untracked=["new.py"]))
    newer = commit(project, main_py="three\n", new_py="of the commit\n")
    with brought_back(facts, folder, tmp_path, at="main") as found:
        assert found.commit == newer and found.problems == []
        assert (found.place(project) / "main.py").read_text() == "three\n"
        assert (found.place(project) / "new.py").read_text() == "of the commit\n"
    with pytest.raises(UsageError, match="--at: there is no commit 'nix'"), brought_back(facts, folder, tmp_path, at="nix"):
        pass


def test_a_bare_repository_can_stand_in(project, folder, tmp_path):
    facts = made_of(entry(project, folder))
    bare = tmp_path / "bare.git"
    ask(tmp_path, "clone", "-q", "--bare", str(project), str(bare))
    project.rename(tmp_path / "away")
    with brought_back(facts, folder, tmp_path) as found:
        assert "cannot be had" in found.problems[0] and "--repo" in found.problems[0]
    with brought_back(facts, folder, tmp_path, repository=bare) as found:
        assert found.problems == [] and (found.place(project) / "main.py").read_text() == "one\n"
    assert len(ask(bare, "worktree", "list").splitlines()) == 1


# --- what is not as it was ---


def test_everything_that_is_not_as_it_was_is_a_problem(project, folder, tmp_path):
    write(project, main_py="two\n", new_py="new\n")
    left = [{"path": "main.py", "bytes": 4, "why": "holds a secret"}, {"path": "big.csv", "bytes": 9, "why": "too large"}]
    facts = made_of(entry(project, folder, untracked=["new.py"], left_out=left), files={"main.py": {"sha256": sha("x")}, "no.py": {"sha256": ""}})
    (folder / "code/0/new.py").write_text("edited")
    (folder / "code/0.patch").write_text((folder / "code/0.patch").read_text().replace("-one", "-nix"))
    with brought_back(facts, folder, tmp_path) as found:
        text = "\n".join(found.problems)
    assert "provenance/code/0.patch is not as the run left it" in text and "the copy of new.py in the run folder is not as" in text
    assert "cannot be brought back: error: patch failed: main.py:1" in text
    assert "main.py, which the run imported, is not as it was" in text and "no.py, which the run imported, is missing" in text
    assert f"main.py of {project} had changes that are not in the record: holds a secret" in text
    assert found.notes == [f"big.csv of {project} is not in the record: too large"]


def test_changes_that_git_was_too_silent_to_give_are_a_problem(project, folder, tmp_path):
    write(project, main_py="two\n")
    facts = made_of(entry(project, folder, patch=None, patch_sha256=None, changed=["main.py"]))
    facts["code"]["notes"] = [f"{project}: git took more than 10 s; the files that were imported from it are kept"]
    with brought_back(facts, folder, tmp_path) as found:
        text = "\n".join(found.problems)
    assert f"main.py of {project} had changes that are not in the record" in text and "git took more than 10 s" in text


def test_changes_in_the_patch_are_not_missed_even_where_the_run_lies_in_a_repository(project, tmp_path):
    write(project, main_py="two\n", **{'"ü" x.py': "x\n"})
    ask(project, "add", "-A")
    folder = project / "results/1/provenance"
    facts = made_of(entry(project, folder))
    assert len(facts["code"]["repositories"][0]["changed"]) == 2
    with brought_back(facts, folder, tmp_path) as found:
        assert found.problems == []


def test_a_commit_that_is_gone_leaves_the_code_of_today_and_says_so(project, folder, tmp_path):
    facts = made_of(entry(project, folder, commit="1" * 40, remote="https://host/x.git"))
    with brought_back(facts, folder, tmp_path) as found:
        assert "commit 111111111111" in found.problems[0] and "it came from https://host/x.git" in found.problems[0]
        assert (found.place(project) / "main.py").read_text() == "one\n"


@pytest.mark.parametrize(
    "facts",
    [{"root": 3}, {"root": "relative"}, {"root": "/a/../b"}, {"untracked": ["../x"]}, {"untracked": ["/x"]}, {"patch": "../x"}, {"left_out": [3]}],
)
def test_a_damaged_record_is_a_message(facts, folder, tmp_path):
    with pytest.raises(UsageError, match=r"record.json is damaged"), brought_back(made_of(repository(**facts), cwd="/"), folder, tmp_path):
        pass


def test_a_link_in_the_tree_leads_no_copy_outside(project, folder, tmp_path):
    (project / "way").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    commit(project)
    write(folder, code__0__way__x_py="x")
    with (
        pytest.raises(UsageError, match="outside of its folder"),
        brought_back(made_of(entry(project, folder) | {"untracked": ["way/x.py"]}), folder, tmp_path),
    ):
        pass
    assert list((tmp_path / "outside").iterdir()) == []


# --- whatever happens ---


def test_no_working_tree_stays_registered_and_those_of_the_user_do(project, folder, tmp_path):
    facts = made_of(entry(project, folder))
    ask(project, "worktree", "add", "-q", str(tmp_path / "own"), "-b", "own")
    (tmp_path / "own").rename(tmp_path / "on a disk that is not mounted")
    before = state_of(project)
    with pytest.raises(KeyboardInterrupt), brought_back(facts, folder, tmp_path) as found:
        (found.place(project) / ".git").unlink()  # as torn as it can be
        raise KeyboardInterrupt
    assert state_of(project) == before
