"""`collector` and `python -m collector`: the command line, with errors as one plain sentence."""

from __future__ import annotations

import os
import signal
import sys


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Run the command line and exit."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)  # until a run, which has something to finish, listens
    try:
        from collector.cli import cli  # noqa: PLC0415 - an interrupt while importing is heard too

        if "_COLLECTOR_COMPLETE" in os.environ:
            import collector.completion  # noqa: F401, PLC0415 - teaches click our bash

        sys.exit(cli.main(standalone_mode=True))
    except BrokenPipeError:
        # The reader of --help, schema and the like went away; keep Python from saying so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)


if __name__ == "__main__":
    main()
