"""`python -m conjoin`, which launchers such as torchrun need: `torchrun --nproc-per-node 2 -m conjoin train ...`."""

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C prints no traceback, not even while modules are still being imported.

    PyTorch's threads sleep when they have nothing to do, unless the environment says otherwise. By default they spin
    for milliseconds, on the processors that our kernels' threads want.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when PyTorch is loaded
    try:
        from conjoin.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped by Ctrl-C.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
