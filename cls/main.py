"""The command: python -m cls.main --config configs/SYSTEM.py[:ARGUMENT] [--config.FIELD=VALUE ...]

Jobs: `train` (the default), `evaluate` (the newest checkpoint of --workdir; of several, the mean of
their softmax), `print` (the resolved config). Without --workdir a run goes to runs/, under a name
made from its config: the same command again continues it, and another config gets another folder.
It may also lie in a store, as gs://BUCKET/NAME or s3://BUCKET/NAME (see cls.storage.paths).
Without --config that of --workdir is taken. A config of configs/search/ searches instead of
training (see configs/search/README.md).

On several hosts the same command runs on each. srun, mpirun, Kubernetes and TPU slices tell a
process which it is; elsewhere --coordinator HOST:PORT --process_count N --process_index I do.
Processes of several hosts share a secret, CLS_TOKEN in the environment of each.

What `evaluate` shows a net of each image is --config.eval.protocol: single (the centre crop), flip,
ten_crop (Krizhevsky et al. 2012), crops_12 and crops_144 (Szegedy et al. 2016, 2015), dense and
dense_flip (Simonyan & Zisserman 2015, He et al. 2015; --config.eval.scales=256,384,512). The
predictions are the mean of the softmax; cls/evaluation/protocols.py has the details.

May import: anything.
"""

import contextlib
import hashlib
import logging
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

from ml_collections import ConfigDict

from cls import BEGAN, cli, ensemble, evaluate, models, signals, train
from cls.cli import Parser, run
from cls.config import load as configs
from cls.distributed import agreement
from cls.errors import UserError
from cls.run.workdir import check_entries, load_config, start
from cls.search import job as search
from cls.storage import paths as storage

JOBS = ('train', 'evaluate', 'print')


def main(argv: list[str] | None = None) -> int:
    """Runs a job; returns the exit code. Raises UserError for mistakes."""
    cli.show_log()
    parser = Parser(prog='python -m cls.main', description=__doc__, allow_abbrev=False)
    parser.add_argument('--config', help='FILE.py or FILE.py:ARGUMENT; default: that of --workdir')
    parser.add_argument(
        '--workdir', type=storage.checked, nargs='+', default=[], help='folder of the run'
    )
    parser.add_argument('--job', default='train', help=', '.join(JOBS))
    parser.add_argument(
        '--output', type=storage.checked, help='evaluate: folder for its files, not the run folder'
    )
    agreement.add_flags(parser)
    # Overrides are kept from argparse, which takes one with a space in it for another --workdir.
    given = sys.argv[1:] if argv is None else argv
    began = BEGAN if argv is None else time.perf_counter()
    fields = [argument for argument in given if argument.startswith('--config.')]
    args, rest = parser.parse_known_args([a for a in given if a not in fields])
    overrides = configs.parse_overrides([*rest, *fields])
    if args.job not in JOBS:
        raise UserError(f'--job is {args.job!r}; known: {", ".join(JOBS)}.')
    if args.output and args.job != 'evaluate':
        raise UserError(f'--output is for --job evaluate, not for --job {args.job}.')
    if args.job != 'print':
        agreement.start(args)
        start()
    if not agreement.is_main_process():
        cli.show_log(logging.ERROR)
    if args.workdir[1:]:
        registers = bool(args.config) and _registers(configs.load(args.config))
        if args.job != 'evaluate' or (args.config and not registers):
            raise UserError('several --workdir folders are for --job evaluate, without --config.')
        runs = [(load_config(folder, overrides), folder) for folder in args.workdir]
        for run_of in runs:
            search.refuse(*run_of)
        ensemble.together_job(runs, args.output)
        return 0

    if args.config:
        config = configs.load(args.config, overrides, _begun(args.workdir))
    elif args.workdir:
        config = load_config(args.workdir[0], overrides)
    else:
        raise UserError(
            'give --config, for example configs/amoebanet.py, or the --workdir of a run to go on.'
        )
    if args.job == 'print':
        print(configs.to_json(config), end='')
        return 0

    workdir = args.workdir[0] if args.workdir else default_workdir(args.config, config)
    together = ensemble.is_ensemble(config)
    if args.job == 'evaluate':
        if args.config and args.workdir and _registers(config):
            config = load_config(workdir, overrides)  # the file is there to register the model
        search.refuse(config, workdir)
        job = ensemble.evaluate_job if together else evaluate.job
        job(config, workdir, args.output)
        return 0
    if search.is_search(config):
        found = search.job(config, workdir, began)
        agreement.print_once(search.summary(found, config, workdir))
        return 0
    result = (ensemble.job if together else train.in_folder)(config, workdir, began)
    if result is None:
        agreement.print_once(
            f'stopped before the end; the same command continues the run in {workdir}'
        )
        return signals.exit_code()
    agreement.print_once(f'{train.summary(result)}; run folder: {workdir}')
    agreement.print_once(_what_next(args.config, workdir))
    return 0


def _what_next(spec: str | None, workdir: Path) -> str:
    """Returns commands for a run that has ended, as a shell takes them here."""
    python = sys.executable
    if shutil.which('python') == python:
        python = 'python'
    elif Path(python).is_relative_to(Path.cwd()):
        python = str(Path(python).relative_to(Path.cwd()))
    command = f'{shlex.quote(python)} -m cls.main'
    # The launchers, called in another folder, set it; a shell there does not have it.
    paths = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))
    ours = [path for path in paths if Path(path).resolve() == configs.ROOT]
    if ours and Path.cwd() != configs.ROOT:
        command = f'PYTHONPATH={shlex.quote(ours[0])} {command}'
    of_run = f'--workdir {shlex.quote(str(workdir))}'
    lines = ['what next:', f'  {command} --job evaluate {of_run}  # each class, calibration']
    file = spec.partition(':')[0] if spec else ''
    with contextlib.suppress(Exception):  # not every config has this arm, least of all a user's own
        configs.load(f'{file}:folder=DIR')
        lines.append(
            f'  {command} --config {shlex.quote(file)}:finetune,folder=DIR --config.init=WEIGHTS'
            '  # your images'
        )
    return '\n'.join([*lines, f'  {command} --job print {of_run}  # all that can be changed'])


def _begun(workdirs: list[Path]) -> ConfigDict | None:
    """Returns the config of the run in a run folder, None if none is there or it is broken."""
    if workdirs:
        check_entries(workdirs[0])
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, UserError):
        return configs.from_json((workdirs[0] / 'config.json').read_text()) if workdirs else None
    return None


def default_workdir(spec: str, config: ConfigDict) -> Path:
    """Returns runs/SYSTEM-DATA-HASH or runs/search-SYSTEM-HASH, the same for the same config."""
    digest = hashlib.sha256(configs.identity(config).encode()).hexdigest()[:8]
    stem = Path(spec.partition(':')[0]).stem
    if search.is_search(config):
        return Path('runs') / f'search-{stem}-{digest}'
    first = next(iter(config.members.values())) if ensemble.is_ensemble(config) else config
    data = first.data.name.partition(':')
    data = Path(data[2]).name or data[0]
    return Path('runs') / f'{stem}-{data}-{digest}'


def _registers(config: ConfigDict) -> bool:
    """Whether a config is of a model that a config file of the user's own registers."""
    return bool(models.origin(config.get('model', {}).get('name', '')))


if __name__ == '__main__':
    signals.begin(['cls.main', *sys.argv[1:]])  # python -m has begun already
    run(main)
