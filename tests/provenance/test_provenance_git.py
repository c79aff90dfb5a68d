"""The code of a run is recorded from repositories in any state, without touching them, and comes back with the very bytes."""

import hashlib
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from treadle.provenance import git, sources

TOKEN = "ghp_" + "A1b2C3d4" * 4


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """Git without the settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "nobody"), ("EMAIL", "nobody@example.org"))}
    for name, value in {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **who}.items():
        monkeypatch.setenv(name, value)


def tell(root, *words, check=True):
    return subprocess.run(["git", "-C", str(root), "-c", "protocol.file.allow=always", *words], check=check, capture_output=True).stdout


def commit(root):
    tell(root, "add", "-A")
    tell(root, "commit", "-q", "-m", "all")


@pytest.fixture
def root(tmp_path):
    return repository(tmp_path / "a project ü")


def repository(root):
    root.mkdir(parents=True)
    tell(root, "init", "-q", "-b", "main")
    (root / "a.py").write_text("x = 1\n")
    (root / "long.py").write_text("".join(f"y{number} = {number}\n" for number in range(30)))
    commit(root)
    return root


def everything(root):
    """Every file and link below a folder, `.git` as well, with its content and its times."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file()):
        content = str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = (content, path.lstat().st_mode, path.lstat().st_mtime_ns)
    return found


def record(root, *imported, here=None):
    """What is kept of the code when these files are imported; and nothing in the repository is another."""
    sources._own_code.cache_clear()
    files = tuple(root / name for name in imported)
    before = everything(root)
    kept = sources._own_code(files, (0.0,) * len(files), here or root)
    assert everything(root) == before
    return kept


def given_back(kept, place):
    """The repositories of a record, made again by commit, patch and copies; their folders."""
    places = []
    for number, entry in enumerate(kept.facts["repositories"]):
        again = place / str(number)
        if entry["commit"]:
            tell(place.parent, "clone", "-q", "-n", entry["root"], str(again))
            tell(again, "checkout", "-q", entry["commit"])
        if entry["patch"]:
            (place / "patch").write_bytes(kept.contents[f"{number}.patch"])
            git.apply(again, place / "patch")
        for name in entry["untracked"]:
            (again / name).parent.mkdir(parents=True, exist_ok=True)
            (again / name).write_bytes(kept.contents[f"{number}/{name}"])
        places.append((Path(entry["root"]), again))
    return places


def assert_comes_back(kept, root, tmp_path, *imported):
    place = tmp_path / "back"
    place.mkdir()
    places = given_back(kept, place)
    for file in (root / name for name in imported):
        home, again = max((pair for pair in places if file.is_relative_to(pair[0])), key=lambda pair: len(pair[0].parts))
        content = (again / file.relative_to(home)).read_bytes()
        assert content == file.read_bytes(), file
    digests = {facts["sha256"] for facts in kept.facts["files"].values()}
    assert digests == {hashlib.sha256((root / name).read_bytes()).hexdigest() for name in imported}


def only(kept):
    (entry,) = kept.facts["repositories"]
    return entry


# --- states of a repository ---


def test_a_clean_repository_is_its_commit(root):
    kept = record(root, "a.py")
    commit_now = tell(root, "rev-parse", "HEAD").decode().strip()
    assert only(kept) == {
        "root": str(root), "commit": commit_now, "branch": "main", "remote": None, "patch": None, "changed": [], "untracked": [], "left_out": []
    }  # fmt: skip
    assert kept.contents == {} and kept.facts["notes"] == []


def test_every_kind_of_change_comes_back(root, tmp_path):
    for name in ("deleted", "moved", "staged", "unstaged", "forgotten", "linked"):
        (root / f"{name}.py").write_text(f"{name} = 1\n" * 20)
    (root / "weights.bin").write_bytes(bytes(range(256)) * 20)
    (root / "link.py").symlink_to("a.py")
    commit(root)
    (root / "deleted.py").unlink()
    tell(root, "mv", "moved.py", "moved there.py")
    (root / "staged.py").write_text("staged = 2\n")
    tell(root, "add", "staged.py")
    (root / "staged.py").write_text("staged = 3\n")
    tell(root, "rm", "-q", "--cached", "forgotten.py")
    (root / "linked.py").unlink()
    (root / "linked.py").symlink_to("a.py")
    (root / "link.py").unlink()
    (root / "link.py").symlink_to("long.py")
    (root / "meant.py").write_text("meant = 1\n")
    tell(root, "add", "-N", "meant.py")
    (root / "weights.bin").write_bytes(bytes(range(255)) * 20)
    (root / "long.py").chmod(0o755)
    (root / "new with\nnewline and ü.py").write_text("new = 1")
    names = ["a.py", "long.py", "moved there.py", "staged.py", "forgotten.py", "linked.py", "link.py", "meant.py", "new with\nnewline and ü.py"]
    kept = record(root, *names)
    assert_comes_back(kept, root, tmp_path, *names)
    assert not (tmp_path / "back/0/deleted.py").exists() and not (tmp_path / "back/0/moved.py").exists()
    assert (tmp_path / "back/0/weights.bin").read_bytes() == (root / "weights.bin").read_bytes()
    assert os.access(tmp_path / "back/0/long.py", os.X_OK)


def test_a_merge_that_stopped_comes_back_with_its_marks(root, tmp_path):
    tell(root, "checkout", "-q", "-b", "other")
    (root / "a.py").write_text("x = 2\n")
    commit(root)
    tell(root, "checkout", "-q", "main")
    (root / "a.py").write_text("x = 3\n")
    commit(root)
    tell(root, "merge", "other", check=False)
    kept = record(root, "a.py")
    assert only(kept)["changed"] == ["a.py"]
    assert_comes_back(kept, root, tmp_path, "a.py")


@pytest.mark.parametrize("convert", ["true", "input"])
def test_ends_of_lines_that_git_converts_come_back(root, tmp_path, convert):
    tell(root, "config", "core.autocrlf", convert)
    (root / "a.py").write_bytes(b"x = 1\r\ny = 3\r\n")
    (root / "long.py").write_bytes(b"mixed\r\nends\n")
    assert_comes_back(record(root, "a.py", "long.py"), root, tmp_path, "a.py", "long.py")


def test_a_change_that_git_was_told_not_to_see_comes_back(root, tmp_path):
    tell(root, "update-index", "--assume-unchanged", "a.py")
    (root / "a.py").write_text("x = 9\n")
    kept = record(root, "a.py")
    assert only(kept)["untracked"] == ["a.py"]
    assert_comes_back(kept, root, tmp_path, "a.py")


def test_an_imported_file_that_git_ignores_comes_back(root, tmp_path):
    (root / ".gitignore").write_text("made/\n")
    commit(root)
    (root / "made").mkdir()
    (root / "made/code.py").write_text("made = 1\n")
    (root / "made/other.py").write_text("not imported\n")
    kept = record(root, "made/code.py")
    assert only(kept)["untracked"] == ["made/code.py"]
    assert_comes_back(kept, root, tmp_path, "made/code.py")


def test_a_detached_head_has_no_branch(root):
    tell(root, "checkout", "-q", "--detach")
    assert only(record(root, "a.py"))["branch"] is None


def test_without_a_commit_yet_the_sources_are_copied(root, tmp_path):
    tell(root, "update-ref", "-d", "HEAD")
    (root / "new.py").write_text("new = 1\n")
    kept = record(root, "a.py")
    assert (only(kept)["commit"], only(kept)["branch"]) == (None, "main")
    assert only(kept)["untracked"] == ["a.py", "long.py", "new.py"] and kept.facts["notes"] == []


def test_submodules_are_repositories_of_their_own(root, tmp_path):
    inner, innermost = repository(tmp_path / "inner"), repository(tmp_path / "innermost")
    tell(inner, "submodule", "add", "-q", str(innermost), "deep er")
    commit(inner)
    tell(root, "submodule", "add", "-q", str(inner), "third party")
    tell(root, "submodule", "update", "-q", "--init", "--recursive")
    commit(root)
    names = ["a.py", "third party/a.py", "third party/deep er/a.py"]
    for number, name in enumerate(names):
        (root / name).write_text(f"x = {number + 5}\n")
    kept = record(root, *names)
    assert [Path(entry["root"]).name for entry in kept.facts["repositories"]] == [root.name, "third party", "deep er"]
    assert [entry["changed"] for entry in kept.facts["repositories"]] == [["a.py"]] * 3
    assert len(kept.facts["files"]) == 3, "files with the same path in two repositories"
    assert_comes_back(kept, root, tmp_path, *names)
    tell(root, "submodule", "deinit", "-q", "--force", "--all")
    assert len(record(root, "a.py").facts["repositories"]) == 1


def test_a_worktree_and_a_shallow_clone_are_repositories(root, tmp_path):
    tell(root, "worktree", "add", "-q", str(tmp_path / "beside"))
    tell(tmp_path, "clone", "-q", "--depth", "1", f"file://{root}", str(tmp_path / "shallow"))
    for place, branch in (("beside", "beside"), ("shallow", "main")):
        (tmp_path / place / "a.py").write_text("x = 7\n")
        entry = only(record(tmp_path / place, "a.py"))
        assert (entry["branch"], entry["changed"], bool(entry["patch"])) == (branch, ["a.py"], True)


def test_a_project_behind_a_link_is_one_repository(root, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(root)
    monkeypatch.setattr(sources, "own_modules", lambda: {tmp_path / "link" / "a.py": ModuleType("a")})
    monkeypatch.chdir(root)
    sources._own_code.cache_clear()
    assert only(sources.own_code())["root"] == str(root)


# --- git that is not as it should be ---


def test_settings_of_the_user_change_nothing(root, tmp_path):
    odd = "diff.noprefix=true diff.mnemonicPrefix=true color.ui=always diff.context=0 diff.external=false diff.orderFile=/nowhere diff.relative=true"
    for setting in [*odd.split(), "core.quotePath=true", "diff.renames=copies", "diff.submodule=log", "apply.whitespace=fix"]:
        tell(root, "config", *setting.split("="))
    (root / "long.py").write_text((root / "long.py").read_text().replace("y7 = 7", "y7 = 8  "))
    assert_comes_back(record(root, "long.py"), root, tmp_path, "long.py")


def test_variables_of_a_hook_change_nothing(root, tmp_path, monkeypatch):
    (root / "a.py").write_text("x = 2\n")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    sources._own_code.cache_clear()
    entry = only(sources._own_code((root / "a.py",), (0.0,), root))
    assert (entry["changed"], bool(entry["patch"]), entry["untracked"]) == (["a.py"], True, [])


def test_a_lock_on_the_index_is_nobodys_business(root, tmp_path):
    (root / ".git/index.lock").touch()
    (root / "a.py").write_text("x = 2\n")
    assert_comes_back(record(root, "a.py"), root, tmp_path, "a.py")


def test_with_a_damaged_index_the_imported_files_are_kept(root, tmp_path):
    (root / "a.py").write_text("x = 2\n")
    (root / ".git/index").write_bytes(b"garbage")
    kept = record(root, "a.py")
    assert only(kept)["untracked"] == ["a.py"] and "index" in kept.facts["notes"][0]
    assert_comes_back(kept, root, tmp_path, "a.py")


def test_a_folder_that_only_looks_like_a_repository_is_not_the_one_above(root):
    (root / "inner/.git").mkdir(parents=True)
    (root / "inner/b.py").write_text("b = 1\n")
    kept = record(root / "inner", "b.py")
    assert (only(kept)["commit"], only(kept)["untracked"]) == (None, ["b.py"])
    assert "not a git repository" in kept.facts["notes"][0]


def test_without_git_the_imported_files_are_kept(root, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    kept = record(root, "a.py")
    assert only(kept)["untracked"] == ["a.py"] and "git is not installed" in kept.facts["notes"][0]


def test_a_git_that_does_not_answer_is_given_up(root, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(git, "SECONDS", 0.05)
    kept = record(root, "a.py")
    assert only(kept)["untracked"] == ["a.py"] and "took more than 0.05 s" in kept.facts["notes"][0]


def test_a_plain_folder_is_its_imported_files(tmp_path):
    place = tmp_path / "plain"
    (place / "package").mkdir(parents=True)
    for name in ("package/__init__.py", "package/part.py", "main.py"):
        (place / name).write_text(f"# {name}\n")
    (place / "diary.txt").write_text("not imported\n")
    kept = record(place, "main.py", "package/part.py")
    assert (only(kept)["root"], only(kept)["commit"]) == (str(place), None)
    assert only(kept)["untracked"] == ["main.py", "package/part.py"]


# --- what is not kept ---


def test_content_that_git_keeps_elsewhere_is_named_and_no_filter_is_run(root, tmp_path):
    (root / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (root / "w.bin").write_text("version https://git-lfs\n")
    commit(root)
    ran = tmp_path / "ran"
    for name in ("clean", "smudge", "process"):
        tell(root, "config", f"filter.lfs.{name}", f"touch {ran}; exit 1")
    tell(root, "config", "filter.lfs.required", "true")
    (root / "w.bin").write_bytes(os.urandom(99))
    (root / "a.py").write_text("x = 2\n")
    kept = record(root, "a.py")
    assert only(kept)["left_out"] == [{"path": "w.bin", "bytes": 99, "why": "git keeps its content elsewhere (filter)"}]
    assert not ran.exists()
    assert_comes_back(kept, root, tmp_path, "a.py")


def test_large_files_are_named_whether_they_are_there_or_were(root, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_FILE", 1000)
    for name in ("grown.py", "shrunk.bin", "removed.bin"):
        (root / name).write_bytes(b"1" if name == "grown.py" else os.urandom(2000))
    commit(root)
    (root / "grown.py").write_bytes(b"1" * 3000)
    (root / "shrunk.bin").write_bytes(b"1")
    (root / "removed.bin").unlink()
    (root / "new.json").write_bytes(b"1" * 1001)
    kept = record(root, "a.py")
    assert {(left["path"], left["why"]) for left in only(kept)["left_out"]} == {
        (name, "too large") for name in ("grown.py", "shrunk.bin", "removed.bin", "new.json")
    }
    assert kept.contents == {}


def test_code_has_room_before_data(root, monkeypatch):
    monkeypatch.setattr(sources, "MOST_FILES", 3)
    for number in range(9):
        (root / f"{number}.json").write_text("1")
    (root / "z.py").write_text("z = 1\n")
    kept = record(root, "a.py")
    assert only(kept)["untracked"] == ["z.py", "0.json", "1.json"]
    assert [left["path"] for left in only(kept)["left_out"]] == ["2.json", "3.json", "4.json", "and 4 more"]


def test_pipes_devices_and_endless_files_are_not_read(root):
    os.mkfifo(root / "pipe.txt")
    (root / "through.csv").symlink_to("pipe.txt")
    (root / "zero.csv").symlink_to("/dev/zero")
    (root / "gone.csv").symlink_to("nowhere")
    (root / "around").symlink_to(".")
    kept = record(root, "a.py")
    assert only(kept)["untracked"] == [] and {left["path"] for left in only(kept)["left_out"]} == {"through.csv", "zero.csv", "gone.csv"}


def test_runs_are_no_sources(root):
    for folder, name in (("results/a", "run.json"), ("results/b", "metrics.jsonl"), ("results/c", "lock")):
        (root / folder / "plots").mkdir(parents=True)
        for file in (name, "config.yaml", "plots/data.csv"):
            (root / folder / file).write_text("{}")
    (root / "results/notes.md").write_text("mine\n")
    (root / "results/c/provenance").mkdir()  # one that is about to begin
    assert only(record(root, "a.py"))["untracked"] == ["results/notes.md"]


@pytest.mark.parametrize("where", ["changed", "removed", "binary", "new", "named"])
def test_a_file_that_holds_a_secret_is_named_only(root, where):
    file = root / {"named": "my_credentials.json"}.get(where, "config.yaml")
    line = {"named": "anything"}.get(where, f"key: {TOKEN}")
    if where in ("changed", "removed", "binary"):
        file.write_text(line if where == "removed" else "key: none")
        if where == "binary":
            (root / ".gitattributes").write_text("*.yaml binary\n")
        commit(root)
    file.write_text("key: none\n" if where == "removed" else line)
    for number in range(5):
        (root / f"{number}.py").write_text(f"x = {number}\n")
    (root / "a.py").write_text("x = 5\n")
    kept = record(root, "a.py")
    assert [(left["path"], left["why"]) for left in only(kept)["left_out"]] == [(file.name, "holds a secret")]
    assert not any(TOKEN.encode() in content or b"anything" in content for content in kept.contents.values())
    assert b"+x = 5" in kept.contents["0.patch"]


def test_the_remote_is_without_a_login(root):
    tell(root, "remote", "add", "origin", f"https://me:{TOKEN}@host.example/x.git")
    assert only(record(root, "a.py"))["remote"] == "https://(withheld)@host.example/x.git"


# --- what a file means ---


def test_comments_docstrings_and_layout_mean_nothing(recwarn):
    plain = sources._meaning(b"def f(x):\n    return x + 1\n")
    assert sources._meaning(b'def f( x ):  # adds\n    """Add."""\n\n    return (x + 1)\n') == plain
    assert sources._meaning(b"def f(x):\n    return x + 2\n") != plain
    sources._meaning(b'x = "\\d"\n')
    assert not recwarn.list


def test_code_that_python_cannot_read_means_its_bytes():
    deep = b"x = " + b"+".join([b"1"] * 5000)
    for content in (b"def f(:\n", b"\0", deep):
        assert sources._meaning(content) == hashlib.sha256(content).hexdigest()


# --- several runs in one process ---


def test_a_file_that_is_edited_while_a_program_goes_on_is_recorded_as_it_was_imported(root, monkeypatch):
    """The second run of a sweep runs what is in memory; after a reload that is the new file."""
    module, before = ModuleType("a"), (root / "a.py").read_bytes()
    monkeypatch.setattr(sources, "own_modules", lambda: {root / "a.py": module})
    monkeypatch.chdir(root)

    def taken():
        sources._own_code.cache_clear()
        kept = sources.own_code()
        return kept.facts["files"]["a.py"]["sha256"], kept.contents.get("0/a.py")

    first = taken()
    assert first == (hashlib.sha256(before).hexdigest(), None)
    (root / "a.py").write_text("edited = True\n")
    assert taken() == (first[0], before)  # the commit has it too, but the patch would spoil it
    module = ModuleType("a")
    assert taken()[0] == hashlib.sha256(b"edited = True\n").hexdigest()


def test_git_is_asked_again_for_a_later_run(root, monkeypatch):
    monkeypatch.setattr(sources, "own_modules", dict)
    monkeypatch.chdir(root)
    clock = iter([10.0, 11.0, 20.0])
    monkeypatch.setattr(sources.time, "monotonic", lambda: next(clock))
    sources._own_code.cache_clear()
    assert only(sources.own_code())["untracked"] == []
    (root / "values.yaml").write_text("a: 1\n")
    assert [only(sources.own_code())["untracked"] for _ in range(2)] == [[], ["values.yaml"]]
