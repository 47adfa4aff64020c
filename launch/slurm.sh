#!/usr/bin/env bash
# Trains on a Slurm cluster with NVIDIA GPUs: submits a job that is queued again when its time is up
# or it is preempted, until the run is finished.
#
#   ./launch/slurm.sh --workdir DIR [FLAG ...] \
#       -- --config configs/resnet.py:imagenet2012 [FLAG OF cls.main ...]
#
#   --workdir DIR    run folder, where all nodes see it; the job's output goes to DIR.log
#   --nodes N        default 1
#   --gpus N         of each node, one process for each (default 8)
#   --per_node       one process for all GPUs of a node
#   --cpus N         for each process, to read images with (default 8)
#   --time TIME      of the job; after it the job is queued again (default 24:00:00)
#   --sbatch_flags TEXT  more flags of sbatch, as '--partition=gpu --account=us'
#   --dry_run        prints the commands and runs nothing
#
# All nodes have to see this checkout, its .venv (made by the first use) and the folder that this is
# called in: relative paths are paths there, in the job too.
# Five minutes before the time is up, and when the job is preempted (if the cluster gives it a
# GraceTime), the processes get SIGTERM and save. scancel ends the job for good; the same command
# continues the run.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
source launch/flags.sh

help_if_asked launch/slurm.sh "$@"
workdir='' nodes=1 gpus=8 per_node='' cpus=8 time=24:00:00 sbatch_flags='' dry_run=''
read_flags 'workdir nodes gpus cpus time sbatch_flags' 'per_node dry_run' "$@"
need workdir
number nodes gpus cpus
tool sbatch 'this is for a login node of a Slurm cluster'
workdir="${workdir%/}"
tasks="$gpus"
[[ -z "$per_node" ]] || tasks=1
read -r -a more <<<"$sbatch_flags"

setup_venv launch/requirements-cuda.txt
return_to_caller
run mkdir -p "$(dirname -- "$workdir")"
run sbatch --job-name="cls-$(basename -- "$workdir")" --nodes="$nodes" --gpus-per-node="$gpus" \
  --ntasks-per-node="$tasks" --cpus-per-task="$cpus" --time="$time" --requeue \
  --signal=TERM@300 --output="$workdir.log" --open-mode=append ${more[@]+"${more[@]}"} \
  "$ROOT/launch/slurm_job.sh" "$ROOT" "$workdir" ${train_flags[@]+"${train_flags[@]}"}
