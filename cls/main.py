"""The command: python -m cls.main --config configs/SYSTEM.py[:ARGUMENT] [--config.FIELD=VALUE ...]

Jobs: `train` (the default), `evaluate` (the newest checkpoint of --workdir), `print` (the resolved
config). Without --workdir a run goes to runs/, under a name made from its config: the same command
again continues it, and another config gets another folder.
"""

import argparse
import hashlib
import logging
from pathlib import Path

from ml_collections import ConfigDict

from cls import config as configs
from cls import evaluate, train
from cls.errors import UserError, run
from cls.runtime import check_folder, claim, load_result, start
from cls.setup import set_up

JOBS = ('train', 'evaluate', 'print')


def main(argv: list[str] | None = None) -> int:
    """Runs a job; returns the exit code. Raises UserError for mistakes."""
    parser = argparse.ArgumentParser(
        prog='python -m cls.main', description=__doc__, allow_abbrev=False
    )
    parser.add_argument('--config', help='FILE.py or FILE.py:ARGUMENT')
    parser.add_argument('--workdir', type=Path, help='folder of the run')
    parser.add_argument('--job', default='train', help=', '.join(JOBS))
    args, rest = parser.parse_known_args(argv)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s')
    overrides = configs.parse_overrides(rest)
    if args.job not in JOBS:
        raise UserError(f'--job is {args.job!r}; known: {", ".join(JOBS)}.')

    if args.job == 'evaluate' and not args.config:
        config = _config_of(args.workdir, overrides)
    elif args.config:
        config = configs.load(args.config, overrides)
    else:
        raise UserError('--config is missing; for example --config configs/amoebanet.py')
    if args.job == 'print':
        print(configs.to_json(config), end='')
        return 0

    workdir = args.workdir or default_workdir(args.config, config)
    start()
    if args.job == 'evaluate':
        print(train.summary(evaluate.job(config, workdir)))
        return 0
    check_folder(workdir, config)
    result = load_result(workdir)
    if result is None:
        setup = set_up(config)  # mistakes in the config end here, before anything is written
        with claim(workdir, config):
            print(f'run folder: {workdir}', flush=True)
            result = train.train(setup, workdir)
    if result is None:
        print(f'stopped before the end; the same command continues the run in {workdir}')
    else:
        print(f'{train.summary(result)}; run folder: {workdir}')
    return 0


def default_workdir(spec: str, config: ConfigDict) -> Path:
    """Returns runs/SYSTEM-DATA-HASH, the same for the same config."""
    digest = hashlib.sha256(configs.identity(config).encode()).hexdigest()[:8]
    data = config.data.name.partition(':')
    data = Path(data[2]).name or data[0]
    return Path('runs') / f'{Path(spec.partition(":")[0]).stem}-{data}-{digest}'


def _config_of(workdir: Path | None, overrides: list[tuple[str, str]]) -> ConfigDict:
    """Returns the config of a run, with `overrides`."""
    file = workdir / 'config.json' if workdir else None
    if file is None or not file.exists():
        raise UserError('nothing to evaluate: give the --workdir of a run that has a config.json.')
    return configs.from_json(file.read_text(), overrides)


if __name__ == '__main__':
    run(main)
