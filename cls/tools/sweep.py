"""Trains every combination of some fields, each with several seeds, and compares the results.

  cls sweep --config resnet --workdir runs/rates --grid optim.lr=0.1,0.2 --seeds 3
  cls sweep --workdir runs/rates                                     continues it
  cls sweep --config resnet --workdir runs/search --search optim.lr=log:0.01:1 --trials 20

Each --grid has the values of a field, and each trial is an ordinary run in a folder of the sweep,
as runs/rates/optim.lr=0.1,seed=0. The same command again continues a sweep that was stopped or
killed, and runs failed trials again; more values or seeds extend it. Every config is checked before
the first trial starts. A failed trial does not stop the others; the exit code is then 1.

--jobs N trains N at a time on this machine, which share its cores and GPUs. --slurm submits a job
for each trial through submitit (pip install 'cls[sweep]'), with parameters of its executor:
--slurm timeout_min=600,gpus_per_node=1,slurm_partition=NAME. --ray runs them on a Ray cluster:
--ray num_gpus=1.

--vmap trains all seeds of a config in one process with one compiled step, as an axis of the state
on GPU and TPU, in turns on CPU; for small networks on data that the device holds.

--search draws the values of fields with Optuna: uniform:LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH or
choice:A,B,... It maximizes the accuracy on the images of the evaluations. With
--config.eval.every='1 epochs', trials that are behind are stopped early: --pruner.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from cls import cli
from cls.cli import Parser, run
from cls.config import load as configs
from cls.errors import UserError
from cls.experiments import compare, plan, pools, study, sweep
from cls.experiments.runs import FAILED, PRUNED, SweepData, read_sweep
from cls.storage import paths
from cls.tools.compare import described, print_tables
from cls.tools.markdown import table

PROG = 'python -m cls.tools.sweep'
_SHOWN = 10  # failures, or points of a search, in the summary


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    pruners = ', '.join(study.PRUNERS)
    flags.add_argument(
        '--config', metavar='RECIPE[:ARM]', help='name or file of a recipe; default: of --workdir'
    )
    flags.add_argument('--workdir', type=paths.checked, metavar='DIR', help='the sweep folder')
    flags.add_argument(
        '--grid', action='append', default=[], metavar='FIELD=V,V,...', help='values of a field'
    )
    flags.add_argument('--seeds', type=int, metavar='N', help='seeds 0, 1, ..., N - 1')
    flags.add_argument(
        '--search', action='append', default=[], metavar='FIELD=RANGE', help='a field to search'
    )
    flags.add_argument('--trials', type=int, metavar='N', help='trials of a search')
    flags.add_argument(
        '--pruner', metavar='NAME', help=f'of a search, the first by default: {pruners}'
    )
    flags.add_argument('--jobs', type=int, metavar='N', help='trials at the same time; default: 1')
    flags.add_argument(
        '--vmap', action='store_true', help='train all seeds of a config in one process'
    )
    for kind in ('slurm', 'ray'):
        flags.add_argument(
            f'--{kind}', nargs='?', const='', metavar='NAME=V,...', help=f'run the trials on {kind}'
        )
    return flags


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Runs the sweep and prints its results; returns the exit code. Raises UserError."""
    cli.show_log()
    arguments = sys.argv[1:] if argv is None else list(argv)
    fields = [argument for argument in arguments if argument.startswith('--config.')]
    args = parser(prog).parse_args([a for a in arguments if a not in fields])
    if not args.workdir:
        raise UserError('give --workdir DIR, the folder for the runs.')
    overrides = configs.parse_overrides(fields)
    pool = pool_spec(args)
    if args.config:
        the_plan = plan.make_plan(args.config, overrides, args.grid, args.seeds, args.search)
    elif overrides or args.grid or args.seeds is not None or args.search:
        raise UserError(
            'fields are given without --config: expected --workdir alone, which continues a sweep, '
            'or also --config RECIPE.'
        )
    else:
        the_plan = sweep.saved_plan(args.workdir)
    the_plan = _with_search_flags(the_plan, args.trials, args.pruner)
    if the_plan.search:
        if args.vmap:
            raise UserError('--vmap is for --seeds: a search has one seed for each point.')
        study.run_search(args.workdir, the_plan, pool)
    else:
        sweep.run_grid(args.workdir, the_plan, pool, args.vmap)
    return report(read_sweep(args.workdir))


def _with_search_flags(the_plan: plan.Plan, trials: int | None, pruner: str | None) -> plan.Plan:
    """Returns a plan with the flags of a search. Raises UserError for a grid."""
    if not the_plan.search:
        for flag, value in {'--trials': trials, '--pruner': pruner}.items():
            if value is not None:
                raise UserError(f'{flag} is for --search; a grid has --grid and --seeds.')
        return the_plan
    count = the_plan.count if trials is None else trials
    return dataclasses.replace(
        the_plan, count=count, pruner=pruner or the_plan.pruner or study.PRUNERS[0]
    )


def pool_spec(args: argparse.Namespace) -> pools.PoolSpec:
    """Returns the pool of the flags. Raises UserError for two of them."""
    kinds = [kind for kind in ('slurm', 'ray') if getattr(args, kind) is not None]
    if len(kinds) == 2:
        raise UserError('--slurm and --ray are given: expected one of the two.')
    if not kinds:
        return pools.PoolSpec('local', 1 if args.jobs is None else args.jobs)
    options = pools.parse_options(getattr(args, kinds[0]), f'--{kinds[0]}')
    most = 1 if args.search else plan.MOST  # a search learns from the ends of trials
    return pools.PoolSpec(kinds[0], most if args.jobs is None else args.jobs, options)


def report(data: SweepData) -> int:
    """Prints the results of a sweep and its failures; returns the exit code."""
    if data.runs:
        print()
        _print_results(data)
    failures = data.failures
    counts = f'{len(data.runs)} finished, {len(failures)} failed'
    if pruned := data.count(PRUNED):
        counts += f', {pruned} pruned'
    print(f'\n{len(data.trials)} trials: {counts}; folder: {data.folder}')
    for trial in failures[:_SHOWN]:
        print(f'{trial.name} {FAILED}: {trial.message}; output: {data.log(trial)}')
    if failures[_SHOWN:]:
        print(f'and {len(failures) - _SHOWN} more')
    return int(bool(failures))


def _print_results(data: SweepData) -> None:
    comparison = compare.compare(data.runs, data.varied)
    if data.spec.get('search'):
        for metric in compare.chosen_metrics(comparison):
            print(table(compare.ranking(comparison, metric, _SHOWN)))
    else:
        print_tables(described(comparison))


if __name__ == '__main__':
    run(main)
