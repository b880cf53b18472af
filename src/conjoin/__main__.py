"""`python -m conjoin`, which launchers such as torchrun need: `torchrun --nproc-per-node 2 -m conjoin train ...`."""

from conjoin.cli import main

main()
