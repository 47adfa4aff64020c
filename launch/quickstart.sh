#!/usr/bin/env bash
# Trains a small AmoebaNet on the embedded digits, on whatever device there is, in minutes.
#
#   ./launch/quickstart.sh [FLAG ...]
#
# The first run makes .venv and installs requirements.txt and the command `cls` into it. At the end
# the program prints the test accuracy, the run folder and the next commands: .venv/bin/cls, or `cls`
# after `source .venv/bin/activate`. Flags go to `cls train`, for example --workdir=runs/mine or
# --config.duration='2 epochs'; relative paths are those of the caller's folder. PYTHON=python3.12
# chooses the interpreter.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

help_if_asked "launch/quickstart.sh" "$@"
setup_venv requirements.txt
return_to_caller
exec "$ROOT/.venv/bin/cls" train --config amoebanet "$@"
