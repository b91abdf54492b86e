"""Everything that can go wrong in a way its user can mend.

```
DpoBenchError            exit code
├── ConfigurationError   2   a wrong option, key, name or value
├── EnvironmentProblem   3   the machine: no permission, no disk space, a missing package or model
│   ├── DamagedError     3   a file is missing, or not as it was written
│   └── StorageError     3   a disk that is full, fails or cannot be written
├── DataError            4   preference data that cannot be used as it is
├── LockedError          5   another process works on the same folder
└── TrialError           1   one trial failed; the sweep goes on
    └── DivergedError    1   its loss or gradient stopped being finite
```

Each message says what is wrong, where (file, row, key) and what to do, in a line or two. Any other
exception is a bug of this program.
"""


class DpoBenchError(Exception):
    """Base of all errors that are reported without a traceback."""

    exit_code = 1


class ConfigurationError(DpoBenchError, ValueError):
    """A wrong option, key, name or value."""

    exit_code = 2


class EnvironmentProblem(DpoBenchError):  # noqa: N818 - EnvironmentError is a builtin
    """The machine cannot do it: permission, disk space, a missing package or model."""

    exit_code = 3


class DamagedError(EnvironmentProblem):
    """A file that is read again is missing, or not as it was written."""


class StorageError(EnvironmentProblem):
    """A disk is full, fails or may not be written."""


class DataError(DpoBenchError, ValueError):
    """Preference data that cannot be used as it is."""

    exit_code = 4


class LockedError(DpoBenchError):
    """Another process works on the same folder."""

    exit_code = 5


class TrialError(DpoBenchError):
    """One trial failed; the others go on."""


class DivergedError(TrialError):
    """A trial's loss or gradient stopped being finite: a result, not a mishap."""
