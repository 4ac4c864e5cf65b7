"""The console script, and `python -m ckptgrow`."""

import signal


def main() -> None:
    """Runs a command; an interruption before it has begun ends the process without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ckptgrow.cli import main as run

    run()


if __name__ == "__main__":
    main()
