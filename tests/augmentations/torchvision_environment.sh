#!/bin/sh
# Runs the tests of torchvision's transforms in an environment of their own: its wheels need the torch that they were
# built for. Needs 6 GB of disk. From the root of the repository:
#
#     sh tests/augmentations/torchvision_environment.sh ENVIRONMENT_FOLDER
set -eu
folder=${1:?usage: torchvision_environment.sh ENVIRONMENT_FOLDER}
[ -d "$folder" ] || python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 pytest pillow numpy
# The tests' support imports these oracles.
"$folder/bin/pip" install --quiet jpeglib simplejpeg scipy hypothesis setuptools typer rich pytorch-msssim
PYTHONPATH=. "$folder/bin/python" -m pytest -q tests/augmentations/test_torchvision.py \
    tests/compat/test_compat_torchvision.py
