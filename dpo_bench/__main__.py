"""``python -m dpo_bench`` and ``dpo-bench``: the command line, its errors turned into exit codes.

0 all done, 1 some trials failed, 2 usage or configuration, 3 environment, 4 data, 5 locked by
another process, 130 interrupted.
"""

from __future__ import annotations

import atexit
import gc
import signal
import sys

from dpo_bench.errors import ConfigurationError, DpoBenchError, EnvironmentProblem

INTERRUPTED = 130


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    # Looking for garbage among all that torch and transformers made takes the end over a second.
    atexit.register(gc.freeze)
    # A scheduler's SIGTERM is treated as Ctrl-C: what runs is saved and can be resumed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from dpo_bench.cli import UsageError, app

    try:
        code = app(prog_name="dpo-bench", standalone_mode=False) or 0
    except UsageError as error:
        error.show()
        sys.exit(ConfigurationError.exit_code)
    except DpoBenchError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        # No permission and a full disk are the machine's; nothing that was finished is lost.
        where = f" ({error.filename})" if error.filename else ""
        _complain(f"{error.strerror or error}{where}; what is finished stays, run it again.")
        sys.exit(EnvironmentProblem.exit_code)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # the parser turns most of them into this code
        _complain("interrupted; the same command goes on from here.")
    sys.exit(code)


def _complain(text: str) -> None:
    print(f"dpo-bench: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
