"""Every folder that a crash can leave: the operations of a run on its files are recorded, and played back up to any of them.

Two kinds of crash. After kill -9 the kernel still has everything that it was given. After a power cut only what was fsynced is
certain: of the rest, contents may be there without their names, names without their contents, or a part of each.
"""

import builtins
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEFT_OUT = ("tensorboard", "lock")
"""A view that is made anew, and a file whose content is worth nothing after a crash."""


@dataclass(frozen=True)
class Operation:
    """One call that changes the disk, or makes a change safe.

    Args:
        kind: create, write, cut, fsync, rename, unlink, mkdir, rmdir.
        path: relative to the folder; "" is the folder itself.
        data: what is written, the new length, or the new name.
    """

    kind: str
    path: str
    data: Any = None

    def __str__(self) -> str:
        return f"{self.kind} {self.path or '.'}" + (f" -> {self.data}" if self.kind == "rename" else "")


@contextmanager
def recorded(folder: Path) -> Iterator[list[Operation]]:
    """Write down what this process does to the files of a folder."""
    log: list[Operation] = []
    inside = _Inside(folder)
    before = {name: getattr(os, name) for name in ("open", "write", "fsync", "ftruncate", "replace", "rename", "unlink", "mkdir", "rmdir")}
    builtin_open = builtins.open

    def note(kind: str, path: str | None, data: Any = None) -> None:
        if path is not None and path.partition("/")[0] not in LEFT_OUT:
            log.append(Operation(kind, path, data))

    def spy(name: str, take_down: Callable[..., None]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = before[name](*args, **kwargs)  # what fails changes nothing
            take_down(result, *args, **kwargs)
            return result

        return call

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        where = inside(path, dir_fd)
        new = where is not None and not (folder / where).exists()
        handle: int = before["open"](path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_CREAT and new:
            note("create", where)
        if flags & os.O_TRUNC:
            note("cut", where, 0)
        return handle

    def opened_by_python(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        where = None if isinstance(path, int) else inside(path)
        new = where is not None and not (folder / where).exists()
        file = builtin_open(path, mode, *args, **kwargs)
        if new and mode[0] in "wax":
            note("create", where)
        return file

    patches: dict[str, Callable[..., Any]] = {
        "open": opened,
        "write": spy("write", lambda count, handle, data: note("write", inside.of(handle), bytes(data[:count]))),
        "fsync": spy("fsync", lambda _, handle: note("fsync", inside.of(handle))),
        "ftruncate": spy("ftruncate", lambda _, handle, length: note("cut", inside.of(handle), length)),
        "mkdir": spy("mkdir", lambda _, path, mode=0o777, *, dir_fd=None: note("mkdir", inside(path, dir_fd))),
        "rmdir": spy("rmdir", lambda _, path, *, dir_fd=None: note("rmdir", inside(path, dir_fd))),
        "unlink": spy("unlink", lambda _, path, *, dir_fd=None: note("unlink", inside(path, dir_fd))),
        **{name: spy(name, lambda _, a, b, **__: note("rename", inside(a), inside(b))) for name in ("rename", "replace")},
    }
    for name, patch in patches.items():
        setattr(os, name, patch)
    builtins.open = opened_by_python  # type: ignore[assignment]
    try:
        yield log
    finally:
        builtins.open = builtin_open  # type: ignore[assignment]
        for name, function in before.items():
            setattr(os, name, function)


class _Inside:
    """Paths relative to a folder; None for those outside of it."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.resolve()

    def __call__(self, path: Any, dir_fd: int | None = None) -> str | None:
        whole = Path.cwd() / path if dir_fd is None else _of_handle(dir_fd) / path
        return whole.relative_to(self._root).as_posix().replace(".", "", whole == self._root) if whole.is_relative_to(self._root) else None

    def of(self, handle: int) -> str | None:
        return self(_of_handle(handle))


def _of_handle(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()


@dataclass(eq=False)
class _File:
    """A file, whatever its name: what is in it, and what of that is safe."""

    content: bytes = b""
    safe: bytes = b""

    def half(self) -> bytes:
        """What is safe, and half of the rest."""
        done = len(self.safe) if self.content.startswith(self.safe) else 0
        return self.content[: (done + len(self.content)) // 2]


@dataclass(eq=False)
class _Folder:
    """A folder, whatever its name: the names in it, and those that are safe."""

    names: "dict[str, _File | _Folder]" = field(default_factory=dict)
    safe: "dict[str, _File | _Folder]" = field(default_factory=dict)

    def folders(self) -> "Iterator[_Folder]":
        """Itself, and all below."""
        yield self
        for node in self.names.values():
            if isinstance(node, _Folder):
                yield from node.folders()


class Disk:
    """A folder as the kernel knows it, and what of it would survive a power cut."""

    def __init__(self) -> None:
        self._root = _Folder()

    def do(self, operation: Operation) -> None:
        """Play back one operation."""
        kind, data = operation.kind, operation.data
        folder, name = self._place(operation.path)
        node = folder.names.get(name, self._root)
        if kind in ("create", "mkdir"):
            folder.names[name] = _File() if kind == "create" else _Folder()
        elif kind in ("unlink", "rmdir"):
            del folder.names[name]
        elif kind == "rename":
            there, new = self._place(data)
            there.names[new] = folder.names.pop(name)
        elif isinstance(node, _File):
            if kind == "write":
                node.content += data
            elif kind == "cut":
                node.content = node.content[:data].ljust(data, b"\0")
            elif kind == "fsync":
                node.safe = node.content
        elif kind == "fsync":
            node.safe = dict(node.names)

    def _place(self, path: str) -> tuple[_Folder, str]:
        *above, name = path.split("/")
        folder = self._root
        for part in above:
            inner = folder.names[part]
            assert isinstance(inner, _Folder)
            folder = inner
        return folder, name

    def killed(self) -> "State":
        """What kill -9 leaves: everything."""
        return self._state(lambda folder: folder.names, lambda file: file.content)

    def cut_off(self) -> "dict[str, State]":
        """What a power cut can leave, by kinds."""
        kinds = {
            "only what is safe": self._state(lambda folder: folder.safe, lambda file: file.safe),
            "names without contents": self._state(lambda folder: folder.names, lambda file: file.safe),
            "half of the contents": self._state(lambda folder: folder.names, _File.half),
            "contents without names": self._state(lambda folder: folder.safe, lambda file: file.content),
        }
        for number, one in enumerate(self._root.folders()):
            kinds[f"old names in folder {number}"] = self._state(
                lambda folder, one=one: folder.safe if folder is one else folder.names, lambda file: file.content
            )
        return kinds

    def _state(self, names_of: "Callable[[_Folder], dict[str, _File | _Folder]]", content_of: Callable[[_File], bytes]) -> "State":
        state = State({}, set())

        def walk(folder: _Folder, path: str) -> None:
            for name, node in names_of(folder).items():
                if isinstance(node, _File):
                    state.files[path + name] = content_of(node)
                else:
                    state.folders.add(path + name)
                    walk(node, f"{path}{name}/")

        walk(self._root, "")
        return state


@dataclass(frozen=True)
class State:
    """A folder after a crash."""

    files: dict[str, bytes]
    folders: set[str]

    def build(self, folder: Path) -> None:
        """Make it on the disk."""
        for path in sorted(["", *self.folders]):
            (folder / path).mkdir(exist_ok=True)
        for path, content in self.files.items():
            (folder / path).write_bytes(content)

    def key(self) -> tuple[Any, ...]:
        """Equal for equal folders."""
        return tuple(sorted(self.files.items())), tuple(sorted(self.folders))


def crashes(log: list[Operation], first: int = 0, last: int | None = None) -> Iterator[tuple[int, str, State]]:
    """Every folder that a crash between two operations, or in the middle of a write, can leave; each once.

    Args:
        log: what was recorded.
        first: crashes after fewer operations are left out.
        last: crashes after more are left out.

    Yields:
        how many operations were done, what kind of crash it was, and the folder.
    """
    disk, seen = Disk(), set()
    for done in range((len(log) if last is None else last) + 1):
        if done:
            *before, operation = log[:done]
            if operation.kind == "write" and done > first:
                yield from _new(seen, done, {"killed in the middle of a write": _torn(before, operation)})
            disk.do(operation)
        if done >= first:
            yield from _new(seen, done, {"killed": disk.killed(), **{f"power cut: {kind}": state for kind, state in disk.cut_off().items()}})


def _new(seen: set[Any], done: int, states: dict[str, State]) -> Iterator[tuple[int, str, State]]:
    for kind, state in states.items():
        if state.key() not in seen:
            seen.add(state.key())
            yield done, kind, state


def _torn(before: list[Operation], write: Operation) -> State:
    disk = Disk()
    for operation in [*before, Operation("write", write.path, write.data[: len(write.data) // 2])]:
        disk.do(operation)
    return disk.killed()


def on_disk(folder: Path) -> State:
    """A folder as it is."""
    here = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in LEFT_OUT]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in here if path.is_file()}
    return State(files, {path.relative_to(folder).as_posix() for path in here if path.is_dir()})
