"""What can go wrong, as a tree.

    TreadleError
    ├── ConfigError        (ValueError)    a key, a value or a file of the configuration
    ├── DataError          (ValueError)    a dataset, a loader or a batch
    ├── ObjectiveError     (ValueError)    model, objective, metrics and batch do not fit together
    ├── UsageError         (RuntimeError)  a call that cannot work as it was made
    ├── NonFiniteLoss      (RuntimeError)  the loss became NaN or infinite
    ├── CheckpointError    (RuntimeError)  a checkpoint cannot be written, read or trusted
    └── RunFolderError     (RuntimeError)  the run folder cannot be used
        ├── RunLocked                      another process is writing to it
        ├── RunFinished                    the run in it has reached its end
        └── RunChanged                     the run in it has another config or other state

A user's own exception is never wrapped in one of these: it arrives unchanged.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ACCEPT = "accept_changes=True (on a command line: --accept-changes)"
"""How a person says that a run shall go on all the same."""


class TreadleError(Exception):
    """Base of everything Treadle raises by itself."""


class ConfigError(TreadleError, ValueError):
    """A key is unknown, or a value has the wrong type or range."""


class DataError(TreadleError, ValueError):
    """A dataset is empty, cannot be read, or yields something that is not what it was said to be."""


class ObjectiveError(TreadleError, ValueError):
    """Model, objective, metrics and batch do not fit together."""


class UsageError(TreadleError, RuntimeError):
    """A call cannot work as it was made: an unknown event or file, an order that cannot be."""


class NonFiniteLoss(TreadleError, RuntimeError):
    """The loss became NaN or infinite."""


class CheckpointError(TreadleError, RuntimeError):
    """A checkpoint cannot be written, read or trusted."""


class RunFolderError(TreadleError, RuntimeError):
    """The run folder cannot be used."""


class RunLocked(RunFolderError):
    """Another process is writing to the run folder."""


class RunFinished(RunFolderError):
    """The run in the folder has reached its end."""


class RunChanged(RunFolderError):
    """The run in the folder has another config, or other state, than what goes on in it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name.

    Args:
        name: what was given.
        known: what would have been accepted.

    Returns:
        ``"; did you mean 'x'?"`` where something is near, else the list of what is known.

    Example:
        >>> did_you_mean("batchsize", ["batch_size", "seed"])
        "; did you mean 'batch_size'?"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
