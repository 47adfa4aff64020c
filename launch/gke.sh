#!/usr/bin/env bash
# Trains on TPUs of a GKE cluster by xpk, as a JobSet: a preempted or failed node starts the run
# again, and it continues from its newest checkpoint.
#
#   ./launch/gke.sh --cluster CLUSTER --name NAME --type TYPE --image IMAGE \
#       --workdir gs://BUCKET/RUN [FLAG ...] \
#       -- --config configs/resnet.py:imagenet2012 [FLAG OF cls.main ...]
#
#   --cluster NAME   as xpk cluster list shows it; xpk cluster create makes one
#   --name NAME      of the workload
#   --type TYPE      of a slice, for example v5litepod-16
#   --slices N       that train together (default 1)
#   --image IMAGE    for example us-docker.pkg.dev/PROJECT/REPOSITORY/cls:TAG
#   --build          builds and pushes IMAGE first, from this checkout
#   --workdir URL    of the run folder, on gs://
#   --zone ZONE, --project NAME  default: gcloud's
#   --xpk_flags TEXT more flags of `xpk workload create`, as '--spot --priority=high'; not --env nor
#                    --env-file, as launch/token.env is one
#   --dry_run        prints the commands and runs nothing
#
# Needs xpk (pip install xpk) and its requirements: gcloud, kubectl, docker. xpk mounts an emptyDir
# with medium: Memory at /dev/shm, as config.data.workers need it.
# xpk workload list --cluster CLUSTER shows the run, xpk workload delete ends it.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
source launch/flags.sh

help_if_asked launch/gke.sh "$@"
cluster='' name='' type='' slices=1 image='' build='' workdir='' zone='' project='' xpk_flags=''
dry_run=''
read_flags 'cluster name type slices image workdir zone project xpk_flags' 'build dry_run' "$@"
need cluster name type image workdir
number slices
tool xpk 'pip install xpk'
workdir="${workdir%/}"
[[ "$workdir" == gs://?*/?* ]] || usage_error "--workdir is '$workdir'; expected gs://BUCKET/RUN"
more=()
[[ -z "$zone" ]] || more+=(--zone="$zone")
[[ -z "$project" ]] || more+=(--project="$project")
read -r -a words <<<"$xpk_flags"

if [[ -n "$build" ]]; then
  run docker build --file launch/Dockerfile --build-arg ACCELERATOR=tpu --tag "$image" .
  run docker push "$image"
fi
# launch/token.env names CLS_TOKEN, and xpk reads its value here: no command line shows it.
if [[ -n "$dry_run" ]]; then
  # shellcheck disable=SC2016 # it is for the shell that runs these lines
  echo 'export CLS_TOKEN="${CLS_TOKEN:-$(launch/token.sh)}"'
else
  CLS_TOKEN="${CLS_TOKEN:-$(launch/token.sh)}"
  export CLS_TOKEN
fi
# xpk restarts a run that was killed or ends with 42 or with 1, the code of processes that have lost
# another one. Code 2, a mistake in the flags, ends it. The run has 300 seconds to save.
flags="$(quoted --workdir "$workdir" ${train_flags[@]+"${train_flags[@]}"})"
run xpk workload create --cluster="$cluster" --workload="$name" --tpu-type="$type" \
  --num-slices="$slices" --docker-image="$image" --max-restarts=100 --restart-on-exit-codes=1 \
  --termination-grace-period-seconds=300 --env-file=launch/token.env \
  ${more[@]+"${more[@]}"} ${words[@]+"${words[@]}"} \
  --command="exec python launch/gke_worker.py $flags"
