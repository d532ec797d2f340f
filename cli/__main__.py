"""``python -m farthing.cli``: the command line where the script `farthing` is not on the path."""

from .main import main

main()
