"""``python -m sdpn_k2``: the command line, for launchers such as torchrun."""

from sdpn_k2.cli import main

main()
