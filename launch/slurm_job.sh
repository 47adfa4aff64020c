#!/usr/bin/env bash
# The job that launch/slurm.sh submits: trains on all its nodes, and has itself queued again if the
# run was stopped before its end.
#
#   sbatch ... launch/slurm_job.sh CHECKOUT WORKDIR [FLAG OF cls.main ...]
#
# Slurm runs a copy of this file, in the folder that sbatch was called in.
set -uo pipefail
readonly checkout="$1" workdir="$2"
shift 2
export PYTHONPATH="$checkout${PYTHONPATH:+:$PYTHONPATH}"

# Since Slurm 22.05 srun does not take sbatch's, and fails if two variables disagree.
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
unset SLURM_TRES_PER_TASK

# The processes prove to each other that they have it. srun passes the environment on, unless sbatch
# had --export=NONE.
CLS_TOKEN="${CLS_TOKEN:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}"
export CLS_TOKEN
unset SLURM_EXPORT_ENV

# Returns 0 if a node of the job is lost. The other processes notice it before Slurm, after
# SlurmdTimeout, queues the job again: without this the job would have failed by then.
lost_a_node() {
  local count="$SLURM_JOB_NUM_NODES"
  ! timeout 60 srun --overlap --gres=none --nodes="$count" --ntasks="$count" --ntasks-per-node=1 \
    true 2>/dev/null
}

trap : TERM # srun's processes get it too, and save; this shell has to outlive them
srun --kill-on-bad-exit=1 "$checkout/.venv/bin/python" -m cls.main --workdir "$workdir" "$@"
code=$?
if ((code == 2)) || [[ -e "$workdir/result.json" ]]; then
  exit "$code"
fi
if ((code == 0)); then
  why='stopped before the end'
elif lost_a_node; then
  why='a node was lost'
else
  exit "$code"
fi
# RUNNING: the time is nearly up, or the job is about to be preempted. PENDING: Slurm has already
# queued the job again. CANCELLED: after scancel.
state="$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)"
echo "$why; job $SLURM_JOB_ID is $state."
[[ "$state" != RUNNING ]] || scontrol requeue "$SLURM_JOB_ID"
