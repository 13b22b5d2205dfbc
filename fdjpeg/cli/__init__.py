"""The command ``fdjpeg``, with a file for each of its commands."""
