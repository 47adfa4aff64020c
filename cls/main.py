"""Trains, evaluates and prints: the program of `python -m cls.main` and `cls train`.

  python -m cls.main --config RECIPE[:ARM] [--config.FIELD=VALUE ...] [--workdir DIR] [--job JOB]

The flags and their help are here, the work is in `cls.jobs`. JAX is loaded after the flags have
been read.

May import: anything.
"""

import sys
import time

from cls import BEGAN, cli, huge_pages, signals
from cls.cli import Parser, run
from cls.distributed import agreement
from cls.storage import paths as storage

_CONFIG = """
RECIPE is a name (resnet, search/nasnet) or a file (configs/resnet.py); ARM is one of its data sets.
`--config RECIPE --help` lists the arms, variants and fields of a recipe. Any field can be set:
--config.optim.lr=0.1. Without --config the config is that of --workdir.
"""
_TRAIN = """
Without --workdir a run goes to runs/, under a name made from its config. The same command again
continues the run; another config gets another folder. --workdir may be gs://BUCKET/NAME or
s3://BUCKET/NAME. The recipes search/NAME search for networks (see configs/search/README.md).
"""
_EVALUATE = """
The newest checkpoint of --workdir is evaluated; of several folders, the mean of their softmax. The
crops of an image are set by --config.eval.protocol: single (the center crop), flip, ten_crop
(Krizhevsky et al. 2012), crops_12 and crops_144 (Szegedy et al. 2016, 2015), dense and dense_flip
(Simonyan & Zisserman 2015, He et al. 2015; --config.eval.scales=256,384,512). Predictions are the
mean of the softmax.
"""
_HOSTS = """
On several hosts run the same command on each. srun, mpirun, Kubernetes and TPU slices number the
processes; elsewhere give --coordinator HOST:PORT --process_count N --process_index I. The processes
of several hosts share a secret, CLS_TOKEN in the environment of each.
"""
DESCRIPTIONS = {
    '': f"""
Runs a job on a config: `train` (the default) trains, or searches, and continues runs; `evaluate`
evaluates checkpoints; `print` prints the resolved config.
{_CONFIG}{_TRAIN}{_EVALUATE}{_HOSTS}""",
    'train': f'\nTrains a model, or searches for one.\n{_CONFIG}{_TRAIN}{_HOSTS}',
    'evaluate': f'\nEvaluates checkpoints.\n{_CONFIG}{_EVALUATE}{_HOSTS}',
    'print': f'\nPrints the resolved config as JSON.\n{_CONFIG}',
}


def parser(prog: str = 'python -m cls.main', job: str = '') -> Parser:
    """Returns the parser of the flags.

    Args:
      prog: the command, as the messages show it.
      job: the only job of the command; '': the flag --job chooses one.
    """
    flags = Parser(prog=prog, description=DESCRIPTIONS[job], allow_abbrev=False, add_help=False)
    flags.add_argument(
        '-h', '--help', action='store_true', help='show this help; with --config: of the recipe'
    )
    flags.add_argument(
        '--config', metavar='RECIPE[:ARM]', help='name or file of a recipe; default: of --workdir'
    )
    flags.add_argument(
        '--workdir', type=storage.checked, nargs='+', default=[], metavar='DIR', help='run folder'
    )
    if not job:
        flags.add_argument('--job', default='train', help=', '.join(signals.JOBS))
    if job in ('', 'evaluate'):
        flags.add_argument(
            '--output',
            type=storage.checked,
            metavar='DIR',
            help='evaluate: folder for the results instead of the run folder',
        )
    if job != 'print':
        agreement.add_flags(flags)
    if job:
        flags.set_defaults(job=job)
    return flags


def main(argv: list[str] | None = None, prog: str = 'python -m cls.main', job: str = '') -> int:
    """Runs a job; returns the exit code. Raises UserError for mistakes."""
    cli.show_log()
    began = BEGAN if argv is None else time.perf_counter()
    arguments = sys.argv[1:] if argv is None else argv
    # argparse must not see overrides: it takes one with a space in it for another --workdir.
    fields = [argument for argument in arguments if argument.startswith('--config.')]
    flags = parser(prog, job)
    args, rest = flags.parse_known_args([a for a in arguments if a not in fields])
    if args.help and not args.config:
        flags.print_help()
        return 0
    from cls import jobs  # loads JAX

    return jobs.run(args, [*rest, *fields], began, prog)


if __name__ == '__main__':
    huge_pages.restart()
    signals.begin(['cls.main', *sys.argv[1:]])  # python -m has begun already
    run(main)
