"""The command ``fdjpeg``, a file for each of its commands."""
