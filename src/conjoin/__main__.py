"""`python -m conjoin`, which launchers such as torchrun need: `torchrun --nproc-per-node 2 -m conjoin train ...`."""

import sys


def main() -> None:
    """The command line, whose parts take a moment to load; Ctrl-C ends that without a traceback too."""
    try:
        from conjoin.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped by Ctrl-C.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
