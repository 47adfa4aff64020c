#!/usr/bin/env bash
# Runs the tests.
#
#   ./launch/test.sh [PYTEST_ARGUMENT ...]
#
# The first run makes .venv and installs tests/requirements.txt into it. Examples of arguments:
# tests/steps/test_optim.py, -k resnet, -m sweep (all variants). -h shows those of pytest.
# PYTHON=python3.12 picks the interpreter.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

help_if_asked "launch/test.sh" "$@"
setup_venv tests/requirements.txt
exec "$VENV_PYTHON" -m pytest "$@"
