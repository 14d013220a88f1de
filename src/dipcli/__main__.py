"""The command `dip`, and `python -m dipcli`."""

import os
import signal

INTERRUPTED = 130  # exit code


def main() -> None:
    """Run the command line. Until its parts are imported, Ctrl-C ends the process at once: there is nothing to keep."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from dipcli.cli.app import main as run  # noqa: PLC0415 - takes a while, during which Ctrl-C may come

    run()


if __name__ == "__main__":
    main()
