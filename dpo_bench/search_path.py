"""Where modules are looked for: in the working directory last, which holds the user's files."""

import os
import sys


def working_directory_last() -> None:
    """Let no file of the working directory stand in for a library, where ``python -m`` was typed.

    That looks there first, and imports this package before it runs anything of it. The user's
    rewards are still found there, and this package in a checkout.
    """
    started_by_name = sys.argv[:1] == ["-m"]  # until the module that was named begins to run
    if started_by_name and not sys.flags.safe_path and sys.path[0] == os.getcwd():  # noqa: PTH109 - pathlib would be looked for there
        sys.path.append(sys.path.pop(0))
