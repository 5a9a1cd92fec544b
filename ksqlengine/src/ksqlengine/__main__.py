"""``python -m ksqlengine``: the same as the command `ksqlengine`."""

from ksqlengine.cli import main

main()
