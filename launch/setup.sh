# shellcheck shell=bash
# Shared by the scripts in launch/ and .ci/: sourced, not run. Leaves the shell in the project's
# folder and defines help_if_asked and setup_venv. PYTHON names the interpreter that makes .venv
# (default: python3; 3.11 or newer). CALLER is the folder that the script was called in: relative
# paths among its flags are paths there.

# shellcheck disable=SC2034 # for the scripts
readonly CALLER="$PWD"
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
readonly ROOT="$PWD"
PYTHON="${PYTHON:-python3}"
[[ "$PYTHON" != [!/]*/* ]] || PYTHON="$CALLER/$PYTHON"
readonly PYTHON
readonly VENV_PYTHON=.venv/bin/python

fail() {
  echo "error: $*" >&2
  exit 1
}

# help_if_asked SCRIPT "$@": for a first argument --help, prints SCRIPT's head comment and exits.
help_if_asked() {
  if [[ "${2:-}" == --help ]]; then
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1"
    exit 0
  fi
}

# setup_venv REQUIREMENTS: makes .venv if need be, installs that requirements file into it, and the
# command .venv/bin/cls for this checkout.
# A stamp in .venv records the installed files, so that a second call costs a fraction of a second.
# Callers take turns: they lock this very file, as .venv may be removed. If a script has set
# dry_run, the commands are printed, if there is anything to do.
setup_venv() (
  local version stamp wanted
  version="$(find_python)"
  stamp=".venv/.installed-${1//\//-}"
  exec 9<>launch/setup.sh
  # macOS has no flock; there, two first runs at once are the user's to avoid.
  if command -v flock >/dev/null && ! flock -n 9; then
    echo 'Waiting for another set-up of .venv to end.' >&2
    flock 9
  fi

  # The other files include the first, so all are hashed whichever is asked for.
  # The command has the path of the checkout in it.
  wanted="$version $ROOT $(cat requirements.txt {tests,launch}/requirements*.txt pyproject.toml |
    "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
  if [[ "$(cat "$stamp" 2>/dev/null)" == "$wanted" && -x "$VENV_PYTHON" ]]; then
    return
  fi

  # Of another Python, or cut off before it had pip: made again.
  if [[ "$("$VENV_PYTHON" -m pip --version 2>/dev/null)" != *"(python ${version%.*})" ]]; then
    say "Making .venv with Python $version."
    run "$PYTHON" -m venv --clear "$ROOT/.venv" ||
      fail "'$PYTHON -m venv .venv' failed; on Debian and Ubuntu: apt install python3-venv"
  fi
  say "Installing $1 into .venv (a few minutes the first time; pip says nothing meanwhile)."
  run rm -f "$ROOT/$stamp"
  # A new .venv has the pip that came with its Python. Old ones parse the pages of the index again for
  # each requirement. No upper limit: the pip of a newer Python stays.
  run "$ROOT/$VENV_PYTHON" -m pip install --disable-pip-version-check --no-input -q --no-compile \
    'pip>=26' || say 'The pip of .venv stays as it is: it installs too, only more slowly.'
  run "$ROOT/$VENV_PYTHON" -m pip install --disable-pip-version-check --no-input -q --no-compile \
    -r "$ROOT/$1" ||
    fail "pip could not install $1 (its message is above); run the same command again to retry"
  # Python compiles what is imported and keeps it: far less than all files, which pip would compile.
  # If it must not keep it, all are compiled here; some may be for other versions of Python.
  if [[ -n "${PYTHONDONTWRITEBYTECODE:-}" ]]; then
    run "$ROOT/$VENV_PYTHON" -m compileall -qq -j 0 "$ROOT/.venv/lib" || true
  fi
  # With the setuptools of the requirements: without it pip would ask the package index again.
  run "$ROOT/$VENV_PYTHON" -m pip install --disable-pip-version-check --no-input -q --no-deps \
    --no-build-isolation -e "$ROOT" ||
    fail 'pip could not install the command cls (its message is above)'
  [[ -n "${dry_run:-}" ]] || echo "$wanted" >"$stamp"
)

# Prints a line of progress; nothing in a dry run.
say() {
  [[ -n "${dry_run:-}" ]] || echo "$*" >&2
}

# run COMMAND ...: runs it, or in a dry run prints it as a line that a shell would take.
run() {
  if [[ -n "${dry_run:-}" ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

# Prints words as a shell would take them.
quoted() {
  local word line=
  for word in "$@"; do
    if [[ ! "$word" =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    line+=" $word"
  done
  echo "${line# }"
}

# Leaves the shell in the folder that the script was called in, where Python finds cls all the same.
return_to_caller() {
  cd -- "$CALLER" || exit
  export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
}

# Prints the version of $PYTHON, 3.11.7 for example; fails with one line if it is too old.
find_python() {
  local version
  version="$("$PYTHON" -c 'import platform; print(platform.python_version())' 2>/dev/null)" ||
    fail "cannot run '$PYTHON'; install Python 3.11 or newer, or name one: PYTHON=python3.12 $0"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "'$PYTHON' is Python $version; 3.11 or newer is needed: PYTHON=python3.12 $0"
  echo "$version"
}
