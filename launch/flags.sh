# shellcheck shell=bash
# Shared by the launchers: sourced after setup.sh, not run. Defines read_flags, and checks: need,
# number, tool and usage_error.

usage_error() {
  echo "error: $*" >&2
  exit 2
}

# read_flags "NAMES WITH A VALUE" "SWITCHES" "$@": sets a variable for each flag that is given,
# --name VALUE or --name=VALUE, a switch to 1. Arguments after -- are left in the array
# train_flags. The script sets the defaults before. An unknown flag is an error.
# shellcheck disable=SC2034 # train_flags is for the script
read_flags() {
  local _values=" $1 " _switches=" $2 " _flag _name
  shift 2
  train_flags=()
  while (($#)); do
    _flag="$1" _name="${1#--}" _name="${_name%%=*}"
    shift
    if [[ "$_flag" == -- ]]; then
      train_flags=("$@")
      return
    elif [[ "$_flag" == --* && "$_switches" == *" $_name "* ]]; then
      [[ "$_flag" == "--$_name" ]] || usage_error "--$_name takes no value: $_flag"
      printf -v "$_name" 1
    elif [[ "$_flag" == --* && "$_values" == *" $_name "* ]]; then
      if [[ "$_flag" == *=* ]]; then
        printf -v "$_name" '%s' "${_flag#*=}"
      elif (($#)); then
        printf -v "$_name" '%s' "$1"
        shift
      else
        usage_error "--$_name needs a value"
      fi
    else
      # shellcheck disable=SC2086 # the names are words
      usage_error "unknown argument $_flag; known:$(printf ' --%s' $_values $_switches)." \
        'Flags of cls.main stand after --'
    fi
  done
}

# need NAME ...: an error unless each of these flags has been given.
need() {
  local _name
  for _name in "$@"; do
    [[ -n "${!_name}" ]] || usage_error "--$_name is needed; --help says what for"
  done
}

# number NAME ...: an error unless each of these flags is a whole number above zero.
number() {
  local _name
  for _name in "$@"; do
    [[ "${!_name}" =~ ^[1-9][0-9]*$ ]] || usage_error "--$_name is '${!_name}'; expected 1, 2, ..."
  done
}

# tool NAME WHERE: an error unless there is such a command, or nothing is to be run.
tool() {
  [[ -n "$dry_run" ]] || command -v "$1" >/dev/null || fail "there is no command $1 here; $2"
}
