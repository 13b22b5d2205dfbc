"""``python -m fdjpeg``: the same as the command ``fdjpeg``."""

from fdjpeg.cli.main import main

main()
