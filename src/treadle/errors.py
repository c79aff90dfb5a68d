"""The exceptions, by their public address: see `treadle.core.errors` for the tree."""

from treadle.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteLoss,
    ObjectiveError,
    RunChanged,
    RunFinished,
    RunFolderError,
    RunLocked,
    TreadleError,
    UsageError,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "NonFiniteLoss",
    "ObjectiveError",
    "RunChanged",
    "RunFinished",
    "RunFolderError",
    "RunLocked",
    "TreadleError",
    "UsageError",
]
