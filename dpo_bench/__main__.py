"""``python -m dpo_bench`` and ``dpo-bench``: the command line, its errors turned into exit codes.

0 all done, 1 some trials failed, 2 usage or configuration, 3 environment, 4 data, 5 locked by
another process, 130 interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import traceback
from pathlib import Path

from dpo_bench.errors import ConfigurationError, DpoBenchError
from dpo_bench.launcher import follows, heed_signals

INTERRUPTED = 130


def run() -> None:
    """Run the command line and end the process at once.

    Taking apart all that torch and transformers made takes over a second, and some libraries
    complain while that is done.
    """
    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # a bug: as the interpreter would show it
        traceback.print_exc()
    atexit._run_exitfuncs()  # noqa: SLF001 - os._exit leaves them out
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads on
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    """Run the command line; raises SystemExit with its exit code."""
    heed_signals()
    from dpo_bench.cli import UsageError, app

    if follows():
        if {"sweep", "train"} & set(sys.argv[1:2]):
            from dpo_bench.sweep.executors.launched import join_launched

            join_launched().follow()
        sys.exit(0)
    try:
        code = app(prog_name="dpo-bench", standalone_mode=False) or 0
    except UsageError as error:
        from dpo_bench.wording import visible

        said = io.StringIO()
        error.show(file=said)
        print(visible(said.getvalue()), end="", file=sys.stderr)
        sys.exit(ConfigurationError.exit_code)
    except DpoBenchError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        # No permission and a full disk are the machine's; nothing that was finished is lost.
        from dpo_bench.disk import storage_error
        from dpo_bench.storage import cache_root

        problem = storage_error(Path.cwd(), error, cache_root())
        _complain(str(problem))
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # the parser turns most of them into this code
        _complain("interrupted; the same command goes on from here.")
    sys.exit(code)


def _complain(text: str) -> None:
    from dpo_bench.terminal import complain  # brings rich, which a good start does without

    complain(text)


if __name__ == "__main__":
    run()
