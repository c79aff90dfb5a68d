"""Git, asked and never told: nothing here changes the user's index, branch or working tree.

What is asked of it is asked by the program `git` itself, without locks, hooks, terminal prompts or the user's own
settings for diffs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from treadle.system.seal import file_checksum

SECONDS = 10
"""After this time a question is given up."""
_ARGUMENTS = (
    "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "core.quotePath=false", "-c", "diff.noprefix=false",
    "-c", "diff.mnemonicPrefix=false",
)  # fmt: skip
_DIFF = ("--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--ignore-submodules=all", "-U3")
_ORDER = f"-O{os.devnull}"
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
_KEPT = ("GIT_CONFIG", "GIT_EXEC_PATH")
"""What is left of git's variables: others would point to another repository, where a hook of git's started the program, or bend the questions."""
_NO_LFS = ("-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false")
"""Content is not fetched: what is here is linked, see `fill_pointers`."""
_POINTER = re.compile(rb"version https://git-lfs\S*\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\n")
_LONG_S = 1_800.0
"""A large working tree takes minutes to be written."""
_INSTALLED = frozenset({"site-packages", ".venv", "venv", "node_modules"})
_PREFIXES = ("--src-prefix=a/", "--dst-prefix=b/")
_AT_ONCE = 400
"""Names in one question: a command line has an end."""


class GitError(Exception):
    """Git is not there, or says no; the message is its own."""


class GitSilent(GitError):
    """Git does not answer: nothing more is to be asked."""


def git(root: Path, *words: str, input: bytes | None = None, seconds: float = 0, **variables: str) -> bytes:
    """What git answers in a folder.

    Args:
        root: the folder.
        words: the question.
        input: what it reads.
        seconds: how long it may take; `SECONDS` where nothing is said.
        variables: of its environment.

    Raises:
        GitError: it is not installed, gives an error, or takes too long.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith(_KEPT)}
    try:
        done = subprocess.run(
            ["git", *_ARGUMENTS, "-C", str(root), *words], input=input, capture_output=True, env=own | _QUIET | variables,
            timeout=seconds or SECONDS, check=False, stdin=subprocess.DEVNULL if input is None else None,
        )  # fmt: skip
    except FileNotFoundError:
        raise GitError("git is not installed") from None
    except subprocess.TimeoutExpired:
        raise GitSilent(f"git took more than {seconds or SECONDS} s") from None
    except (OSError, ValueError) as error:
        raise GitError(str(error)) from None
    if done.returncode:
        raise GitError((done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}").splitlines()[0])
    return done.stdout


def root_of(folder: Path) -> Path | None:
    """The working tree that a folder is in; None where it is in none. Asks no program."""
    return next((place for place in (folder, *folder.parents) if os.access(place / ".git", os.F_OK)), None)


def commit_of(root: Path) -> str | None:
    """The commit that is checked out, 40 hexadecimal digits (64 in a repository of SHA-256); None where there is none yet.

    Raises:
        GitError: git will not say; `.git` is no repository, say.
    """
    try:  # named, so that git does not look for another one further up
        return git(root, "--git-dir=.git", "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    except GitSilent:
        raise
    except GitError:
        if branch_of(root) is None or _maybe(root, "--git-dir=.git", "rev-parse", "--verify", "HEAD") is not None:
            raise
        return None


def branch_of(root: Path) -> str | None:
    """The branch that is checked out; None where HEAD is detached."""
    return _maybe(root, "--git-dir=.git", "symbolic-ref", "--short", "-q", "HEAD")


def remote_of(root: Path) -> str | None:
    """Where the repository came from, as it is written down in it."""
    return _maybe(root, "config", "--get", "remote.origin.url")


def changed(root: Path) -> dict[str, int]:
    """Tracked files that differ from the commit, staged or not, by their path in the repository, with the bytes that the commit has of each."""
    question = ("diff", "HEAD", "--raw", "--no-abbrev", "-z", "--no-ext-diff", "--no-renames", "--ignore-submodules=all", _ORDER)
    answer = _names(git(root, *_unfiltered(root), *question))
    before = {name: facts.split()[2] for facts, name in zip(answer[::2], answer[1::2], strict=False)}
    known = [blob for blob in before.values() if blob.strip("0")]
    sizes = git(root, "cat-file", "--batch-check=%(objectsize)", input="\n".join(known).encode()).split(b"\n") if known else []
    size_of = {blob: int(size) for blob, size in zip(known, sizes, strict=False) if size.isdigit()}
    return {name: size_of.get(blob, 0) for name, blob in before.items()}


def untracked(root: Path, staged: bool = False) -> list[str]:
    """Files that git neither tracks nor ignores; whole repositories among them are left out.

    Args:
        root: the working tree.
        staged: those in the index as well.
    """
    which = ("--others", "--cached") if staged else ("--others",)
    return [name for name in _names(git(root, "ls-files", *which, "--exclude-standard", "-z")) if not name.endswith("/")]


def beside(root: Path) -> list[str]:
    """What stands in the working tree and in no commit, ignored or not; of a folder that holds nothing else, its name only."""
    asked = ("ls-files", "--others", "--directory", "-z")
    answers = [git(root, *asked, "--ignored", "--exclude-standard"), git(root, *asked, "--exclude-standard")]
    return list(dict.fromkeys(name.rstrip("/") for answer in answers for name in _names(answer)))


def tracked(root: Path, names: list[str]) -> dict[str, str]:
    """Those of some files that git tracks, with the digest of the content that is in the index."""
    found: dict[str, str] = {}
    for some in _in_parts(names):
        for line in _names(git(root, "ls-files", "--stage", "-z", "--", *(f":(top,literal){name}" for name in some))):
            facts, _, name = line.partition("\t")
            found[name] = facts.split()[1]
    return found


def blob(content: bytes, like: str) -> str:
    """The digest that git gives to a content.

    Args:
        content: of a file.
        like: a digest of the same repository.
    """
    kind = hashlib.sha256 if len(like) == 64 else hashlib.sha1
    return kind(b"blob %d\0" % len(content) + content).hexdigest()


def filtered(root: Path, names: list[str]) -> set[str]:
    """Those of some files whose content git keeps elsewhere or otherwise: git-lfs, git-crypt."""
    answer = _names(git(root, "check-attr", "-z", "--stdin", "filter", input=b"\0".join(map(os.fsencode, names)))) if names else []
    return {name for name, value in zip(answer[::3], answer[2::3], strict=False) if value not in ("unspecified", "unset", "")}


def patch(root: Path, names: Iterable[str]) -> bytes:
    """The difference between the commit and the working tree for some files, as `apply` takes it."""
    names = list(names)
    words = (*_unfiltered(root), "diff", "HEAD", *_DIFF, *_PREFIXES, _ORDER, "--") if names else ()
    return b"".join(git(root, *words, *(f":(top,literal){name}" for name in some)) for some in _in_parts(names))


def submodules(root: Path) -> list[Path]:
    """The submodules of a repository that are checked out, and theirs."""
    if not (root / ".gitmodules").is_file():
        return []
    answer = _maybe(root, "config", "-f", ".gitmodules", "-z", "--get-regexp", r"^submodule\..*\.path$") or ""
    paths = [root / entry.partition("\n")[2] for entry in answer.split("\0") if "\n" in entry]
    found = [path for path in paths if os.access(path / ".git", os.F_OK)]
    return [place for path in found for place in (path, *submodules(path))]


def _unfiltered(root: Path) -> list[str]:
    """Arguments by which no filter is run: one may be missing, take its time, and write into the repository."""
    names = (_maybe(root, "config", "-z", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process|required)$") or "").split("\0")
    drivers = dict.fromkeys(name.rpartition(".")[0] for name in names if name)
    return [word for driver in drivers for end in ("clean=", "process=", "required=false") for word in ("-c", f"{driver}.{end}")]


def _in_parts(names: list[str]) -> Iterator[list[str]]:
    return (names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE))


# --- for a place of our own ---


def has(root: Path, commit: str) -> bool:
    """Whether a repository holds a commit."""
    try:
        git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True


def resolved(root: Path, commit: str) -> str:
    """The 40 digits of a commit that is named in another way, such as ``main~2``."""
    return git(root, "rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()


def submodule_at(root: Path, commit: str, path: str) -> str | None:
    """The commit of a submodule that a commit names; None where it has no submodule there."""
    answer = _names(git(root, "ls-tree", "-z", "--full-tree", commit, "--", path))
    return answer[0].split()[2] if answer and answer[0].startswith("160000 ") else None


def size_of(root: Path, commit: str) -> int:
    """Bytes of a commit's files together.

    Raises:
        GitError: the commit is not there.
    """
    sizes = [entry.split()[3] for entry in _names(git(root, "ls-tree", "-r", "-l", "-z", "--full-tree", commit))]
    return sum(int(size) for size in sizes if size.isdigit())


def all_tracked(root: Path) -> list[str]:
    """Every file that git tracks; where git says nothing, every Python file."""
    try:
        return _names(git(root, "ls-files", "-z"))
    except GitError:
        return [str(path.relative_to(root)) for path in root.rglob("*.py") if _INSTALLED.isdisjoint(path.parts)]


def check_out(root: Path, commit: str, place: Path) -> None:
    """A working tree of a commit in another place; the user's own stays as it is.

    Raises:
        GitError: the commit is not there, or cannot be checked out.
    """
    words = ("-c", "submodule.recurse=false", "worktree", "add", "--quiet", "--detach", "--force", str(place.absolute()), commit)
    git(root, *_NO_LFS, *words, seconds=_LONG_S)


def give_up(root: Path, place: Path) -> None:
    """Forget a working tree that `check_out` made or began to make, and no other; its files are removed."""
    with suppress(GitError):
        git(root, "worktree", "remove", "--force", "--force", str(place.absolute()), seconds=_LONG_S)
        return
    with suppress(GitError, OSError):  # what is left of it is in a temporary folder
        known = Path(root, os.fsdecode(git(root, "rev-parse", "--git-common-dir")).rstrip("\n"), "worktrees")
        for entry in known.glob("*/gitdir"):
            if Path(os.fsdecode(entry.read_bytes()).strip()) == place.absolute() / ".git":
                shutil.rmtree(entry.parent, ignore_errors=True)
        known.rmdir()


def pointers(place: Path) -> dict[str, str]:
    """Files of a folder that hold no content but a pointer of git-lfs to it: its SHA-256."""
    names = all_tracked(place) if (place / ".git").exists() else [str(path.relative_to(place)) for path in place.rglob("*")]
    if not any(Path(name).name == ".gitattributes" and b"lfs" in (place / name).read_bytes() for name in names):
        return {}
    small = [file for file in (place / name for name in names) if not file.is_symlink() and file.is_file() and file.stat().st_size <= 1024]
    return {str(file.relative_to(place)): match[1].decode() for file in small if (match := _POINTER.match(file.read_bytes()))}


def fill_pointers(place: Path, root: Path) -> list[str]:
    """Link the content of files that git-lfs keeps, from a working tree or its store, where it is what the commit names.

    Args:
        place: a folder with pointers.
        root: a working tree with content.

    Returns:
        files whose content is not there.
    """
    missing = []
    for name, oid in pointers(place).items():
        store = Path(root, _maybe(root, "rev-parse", "--git-common-dir") or ".git", "lfs", "objects", oid[:2], oid[2:4], oid)
        found = next((path for path in (root / name, store) if _sha256(path) == oid), None)
        if found is None:
            missing.append(name)
        else:
            (place / name).unlink()
            (place / name).symlink_to(found)
    return missing


def patched(patch: Path) -> list[str]:
    """The files that a patch changes.

    Raises:
        GitError: it is none, or is not there.
    """
    words, alone = ("apply", "--numstat", "-z", str(patch)), str(patch.absolute().parents[1])
    answer = git(patch.parent, *words, seconds=_LONG_S, GIT_CEILING_DIRECTORIES=alone)  # in a repository, git passes over what is not below
    return [line.split("\t", 2)[2] for line in _names(answer) if line.count("\t") >= 2]


def apply(place: Path, patch: Path) -> None:
    """Apply a patch to a folder, which may be a working tree or none.

    Raises:
        GitError: it does not fit.
    """
    words = ("apply", "--binary", "--whitespace=nowarn", "--no-ignore-whitespace", str(patch))
    git(place, *words, seconds=_LONG_S, GIT_CEILING_DIRECTORIES=str(place.absolute().parent))  # git passes over what is in another repository


def _sha256(path: Path) -> str:
    try:
        return file_checksum(path)
    except OSError:
        return ""


def _names(answer: bytes) -> list[str]:
    return [os.fsdecode(name) for name in answer.split(b"\0") if name]


def _maybe(root: Path, *words: str) -> str | None:
    try:
        return os.fsdecode(git(root, *words)).rstrip("\n") or None
    except GitSilent:
        raise
    except GitError:
        return None
