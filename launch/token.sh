#!/usr/bin/env bash
# Makes a token that the processes of a run on several hosts share (CLS_TOKEN).
#
#   ./launch/token.sh        prints it
#   ./launch/token.sh FILE   writes it to a new file that only you can read; CLS_TOKEN's, if it is set
set -euo pipefail

if [[ "${1:-}" == --help ]]; then
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"
elif (($# > 1)) || [[ "${1:-}" == -* ]]; then
  echo "error: unexpected arguments: $*; expected none, or one FILE" >&2
  exit 2
elif (($#)); then
  umask 077
  rm -f -- "$1"
  set -o noclobber # not through a link that was put there meanwhile
  echo "${CLS_TOKEN:-$("$0")}" >"$1"
else
  od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
  echo
fi
