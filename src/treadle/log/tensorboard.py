"""TensorBoard: event files under `tensorboard/`, a view of the journal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from treadle.core.errors import ConfigError
from treadle.log.writer import Row, scalars


class TensorBoard:
    """Writes every number of every row as a TensorBoard scalar.

    Raises:
        ConfigError: the tensorboard package is not installed.
    """

    def __init__(self) -> None:
        if not self.installed():
            raise ConfigError("log.tensorboard: the package is not installed; pip install 'treadle[tensorboard]', or say log.tensorboard=false")
        self._writer: Any = None

    @staticmethod
    def installed() -> bool:
        """Whether the tensorboard package is here."""
        return find_spec("tensorboard") is not None

    def open(self, folder: Path, rows: Iterable[Row]) -> None:
        """Begin anew from the rows of the journal."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        target = folder / "tensorboard"
        shutil.rmtree(target, ignore_errors=True)
        self._writer = EventFileWriter(str(target))
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """Take one row: one event, since each costs training more than the values in it do."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars(row).items()]
        self._writer.add_event(Event(wall_time=row["wall"], step=row["step"], summary=Summary(value=values)))

    def close(self) -> None:
        """Write what is buffered, and end."""
        if self._writer is not None:
            self._writer.close()
