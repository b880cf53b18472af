"""`python -m conjoin`, which launchers such as torchrun need: `torchrun --nproc-per-node 2 -m conjoin train ...`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C prints no traceback, not even while modules are still being imported."""
    try:
        from conjoin.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped by Ctrl-C.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
