#!/usr/bin/env bash
# Optuna 5.0.0: Hyperband prunes almost only at the first report, if trials report training steps.
#
# One would guess that `trial.report(value, step)` takes the step of a training, and that max_resource in the
# same unit makes Hyperband judge a trial at min_resource, 3, 9, 27, ... of it. A report beyond several of
# these marks is compared at all of them, with one and the same value. Evaluations every 100 steps are beyond
# 1, 3, 9, 27 and 81 at the first one: a trial passes five halvings by its first value, or is stopped. Counted
# as 1, 2, 3, ... the same evaluations are judged when they are made, and most trials are stopped later.
# Hurt: searches with early stopping whose reports are numbered by steps or images instead of evaluations.
# Source: SuccessiveHalvingPruner.prune in optuna/pruners/_successive_halving.py, the loop over rungs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna==5.0.0 numpy==2.4.6
cat > "$folder/hyperband.py" <<'END'
import collections
import sys

import numpy as np
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
every = int(sys.argv[1])  # steps between two of the 27 evaluations of a trial
rng = np.random.default_rng(0)
study = optuna.create_study(
    direction='maximize',
    sampler=optuna.samplers.RandomSampler(seed=0),
    pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27 * every),
)
ends = collections.Counter()
for _ in range(200):
    trial, quality = study.ask(), rng.uniform()
    for number in range(1, 28):
        trial.report(quality + rng.normal() / number, number * every)
        if trial.should_prune():
            ends[number] += 1
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            break
    else:
        study.tell(trial, quality)
print(ends[1], sum(ends.values()) - ends[1])
END
read -r first later < <("$folder/venv/bin/python" "$folder/hyperband.py" 100)
read -r first_of_one later_of_one < <("$folder/venv/bin/python" "$folder/hyperband.py" 1)
echo "Evaluations numbered 100, 200, ...: of 200 trials $first are pruned at the first one, $later later."
echo "Evaluations numbered 1, 2, ...: $first_of_one are pruned at the first one, $later_of_one later."
if ((first > 10 * later && first_of_one < later_of_one)); then
  echo 'With the numbers of steps the first report decides alone.'
else
  echo 'The behavior has changed.'
  exit 1
fi
