#!/usr/bin/env bash
# Trains on a Cloud TPU: requests a slice as a queued resource, installs this commit on every host
# of it, trains, and removes it when the run is finished. A slice that is preempted is requested
# again, and the run continues from its newest checkpoint, as it does by the same command.
#
#   ./launch/tpu.sh --name NAME --zone ZONE --type TYPE --workdir gs://BUCKET/RUN [FLAG ...] \
#       -- --config configs/resnet.py:imagenet2012 [FLAG OF cls.main ...]
#
#   --name NAME      of the queued resource; the run is --workdir, not this
#   --zone ZONE      for example us-west4-a
#   --type TYPE      v5litepod-16 or v6e-16: 16 chips; v5p-16, v4-16, v3-16: 16 cores on 8 chips
#   --workdir URL    of the run folder: disks of a slice are gone with it, so this is on gs://
#   --slices N       that train together over the data center's network (default 1)
#   --spot           cheaper, and may be preempted at any time
#   --project NAME   default: gcloud's
#   --runtime NAME   TPU software version; default: that for JAX on TYPE
#   --create_flags TEXT  more for `gcloud compute tpus queued-resources create`, as '--reserved'
#   --poll SECONDS   between looks at the slice's state (default 30)
#   --keep           leaves the slice when the run is finished
#   --delete         only removes the slice: until then it costs
#   --dry_run        prints the commands of a run without preemption, and runs nothing
#
# Every host runs the program, of the commit that is checked out: on one host only it would wait for
# the others forever. Keep this script running, in tmux on a machine that stays on; if it is cut off,
# the next start ends the processes that it left. Needs gcloud, logged in, and
# `ssh-add ~/.ssh/google_compute_engine`.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
source launch/flags.sh

# Prints the TPU software version for JAX: https://cloud.google.com/tpu/docs/runtimes
runtime_of() {
  case "$1" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) usage_error "--type is '$1'; known: v5litepod-N, v6e-N, v5p-N, v4-N, v3-N, v2-N" ;;
  esac
}

# queued COMMAND [FLAG ...]: gcloud, about this slice.
queued() {
  local verb="$1"
  shift
  run gcloud compute tpus queued-resources "$verb" "$@" "${where[@]}"
}

# Prints ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ...; NONE without such a slice, UNKNOWN when
# gcloud cannot tell.
state() {
  local answer
  if answer="$(gcloud compute tpus queued-resources describe "$name" \
    --format='value(state.state)' "${where[@]}" 2>&1)"; then
    echo "${answer##*$'\n'}" # warnings come before
  elif [[ "$answer" == *NOT_FOUND* || "$answer" == *'was not found'* ]]; then
    echo NONE
  else
    echo "$answer" >&2
    echo UNKNOWN
  fi
}

create_slice() {
  local nodes=(--node-id="$name") more=()
  ((slices == 1)) || nodes=(--node-count="$slices" --node-prefix="$name")
  [[ -z "$spot" ]] || more+=(--spot)
  read -r -a words <<<"$create_flags"
  queued create "$name" "${nodes[@]}" --accelerator-type="$type" --runtime-version="$runtime" \
    ${more[@]+"${more[@]}"} ${words[@]+"${words[@]}"}
}

remove_slice() {
  queued delete "$name" --force --quiet
}

# Returns when the slice can be used. A preempted or failed one is removed first: it holds its name,
# and is never served again.
request() {
  local now='' before='' created=''
  while true; do
    now="$(state)"
    case "$now" in
      ACTIVE) return ;;
      NONE)
        create_slice
        created=1
        ;;
      SUSPENDED) remove_slice ;;
      FAILED)
        [[ -z "$created" ]] || fail "the request for $name has failed; why:" \
          "gcloud compute tpus queued-resources describe $name ${where[*]}"
        remove_slice
        ;;
      UNKNOWN) [[ -n "$before" ]] || fail "gcloud does not tell the state of $name (above)" ;;
      *) [[ "$now" == "$before" ]] || echo "$name: $now" >&2 ;;
    esac
    before="$now"
    sleep "$poll"
  done
}

# Sends the commit as a git bundle, so that the run can record it, and trains on every host. The
# token goes by a file too: everybody can read a command line.
train() {
  local bundle="${TMPDIR:-/tmp}/cls-$name.bundle" token="${TMPDIR:-/tmp}/cls-$name.token" flags
  flags="$(quoted --workdir "$workdir" ${train_flags[@]+"${train_flags[@]}"})"
  run git bundle create --quiet "$bundle" HEAD &&
    queued scp "$bundle" "$name:cls.bundle" --node=all --worker=all &&
    run launch/token.sh "$token" &&
    queued scp "$token" "$name:cls.token" --node=all --worker=all &&
    run rm "$token" &&
    queued ssh "$name" --node=all --worker=all --command="git init --quiet cls && \
git -C cls fetch --quiet ~/cls.bundle HEAD && git -C cls checkout --quiet --force FETCH_HEAD && \
exec cls/launch/tpu_worker.sh $flags"
}

# Tells whether the run has its result.
finished() {
  gcloud storage ls "$workdir/result.json" >/dev/null 2>&1
}

help_if_asked launch/tpu.sh "$@"
name='' zone='' type='' workdir='' slices=1 spot='' project='' runtime='' create_flags='' poll=30
keep='' delete='' dry_run=''
read_flags 'name zone type workdir slices project runtime create_flags poll' \
  'spot keep delete dry_run' "$@"
need name zone
tool gcloud https://cloud.google.com/sdk/docs/install
where=(--zone="$zone")
[[ -z "$project" ]] || where+=(--project="$project")
if [[ -n "$delete" ]]; then
  remove_slice
  exit
fi

need type workdir
number slices poll
workdir="${workdir%/}"
[[ "$workdir" == gs://?*/?* ]] || usage_error "--workdir is '$workdir'; expected gs://BUCKET/RUN"
[[ -n "$runtime" ]] || runtime="$(runtime_of "$type")"
if [[ -n "$dry_run" ]]; then
  create_slice
  echo "# and waits until it is ACTIVE"
  train
  quoted gcloud storage ls "$workdir/result.json"
  [[ -n "$keep" ]] || remove_slice
  exit
fi

[[ -z "$(git status --porcelain --untracked-files=no)" ]] ||
  echo 'warning: changes that are not committed are not sent to the slice.' >&2
until finished; do
  request
  code=0
  train || code=$?
  ! finished || break
  ((code != 2)) || usage_error "the run was refused (output above); $name is there and costs:" \
    '--delete removes it'
  sleep $((2 * poll)) # a slice that has just been preempted may still be called ACTIVE
  [[ "$(state)" != ACTIVE ]] || fail "the run stopped before its end, code $code (output above);" \
    "$name is there and costs. The same command goes on; --delete removes the slice."
  echo "$name was preempted; it is requested again." >&2
done
echo "the run is finished: $workdir"
[[ -n "$keep" || "$(state)" == NONE ]] || remove_slice
