#!/usr/bin/env bash
# The program of each host of a slice, started by launch/tpu.sh in a checkout: set-up, cls.main.
#
#   cls/launch/tpu_worker.sh [FLAG OF cls.main ...]
set -euo pipefail

# The images for TPUs have Ubuntu 22.04, that is Python 3.10.
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  python3 -m pip install --quiet --user uv
  ~/.local/bin/uv python install --quiet 3.12
  PYTHON="$(~/.local/bin/uv python find --no-project 3.12)"
  export PYTHON
fi
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
help_if_asked launch/tpu_worker.sh "$@"

# One process at a time can use a TPU. One that an earlier start left behind saves and ends first.
readonly pid_file="$HOME/.cls.pid"
earlier="$(cat "$pid_file" 2>/dev/null || true)"
if [[ -n "$earlier" && "$(ps -ww -o args= -p "$earlier" || true)" == *cls.main* ]]; then
  echo "ending process $earlier, left by an earlier start." >&2
  kill -TERM "$earlier"
  for ((second = 0; second < 120; second++)); do
    kill -0 "$earlier" 2>/dev/null || break
    sleep 1
  done
  kill -KILL "$earlier" 2>/dev/null || true
fi

# The token that the hosts share; launch/tpu.sh sends it.
if [[ -z "${CLS_TOKEN:-}" && -e "$HOME/cls.token" ]]; then
  CLS_TOKEN="$(cat "$HOME/cls.token")"
  export CLS_TOKEN
fi
rm -f "$HOME/cls.token"

setup_venv launch/requirements-tpu.txt
# Since JAX 0.8.1 this is 8482 by default, and firewalls of Google's networks may block that between
# slices (jax-ml/jax#35905).
export JAX_COORDINATOR_PORT="${JAX_COORDINATOR_PORT:-8476}"
echo $$ >"$pid_file"
exec "$VENV_PYTHON" -m cls.main "$@"
