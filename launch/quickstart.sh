#!/usr/bin/env bash
# Trains a small AmoebaNet on the embedded digits, on whatever device there is, in minutes.
#
#   ./launch/quickstart.sh [FLAG ...]
#
# The first run makes .venv and installs requirements.txt into it. At the end the program prints
# the test accuracy and the folder of the run. Flags go to cls.main: for example
# --workdir=runs/mine or --config.duration='2 epochs'; relative paths are those of the folder that
# this is called in. PYTHON=python3.12 picks the interpreter.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

help_if_asked "launch/quickstart.sh" "$@"
setup_venv requirements.txt
return_to_caller
exec "$ROOT/$VENV_PYTHON" -m cls.main --config configs/amoebanet.py "$@"
