"""The jobs of the command line: training, evaluation, search, and printing a config.

May import: anything.
"""

import argparse
import contextlib
import hashlib
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cls import cli, ensemble, evaluate, registration, signals, train
from cls.config import defaults, describe
from cls.config import load as configs
from cls.config.runs import KINDS, load_config, names
from cls.distributed import agreement
from cls.errors import UserError
from cls.run import executables
from cls.run.environment import start
from cls.run.workdir import check_entries
from cls.search import job as search
from cls.search import supernets  # noqa: F401  registers networks and trainings
from cls.setup import refuse_mistaken
from cls.storage import paths as storage

_LONGEST_NAME = 240  # bytes; file systems allow 255, and files next to a run folder add a suffix


def run(args: argparse.Namespace, fields: list[str], began: float, prog: str) -> int:
    """Runs a job; returns the exit code. Raises UserError for mistakes.

    Args:
      args: the flags of cls.main.
      fields: the other arguments, --config.FIELD=VALUE.
      began: time.perf_counter() at the start of the program.
      prog: the command, as shown in suggestions of further commands.
    """
    flags = ['config', 'workdir', *(['output'] if 'output' in args else [])]
    flags += ['job'] if prog == 'python -m cls.main' else []
    overrides = configs.parse_overrides(fields, [f'--{name}' for name in flags])
    if args.help:
        print(describe.recipe(args.config, overrides))
        return 0
    if args.job not in signals.JOBS:
        raise UserError(f'--job is {args.job!r}; known: {", ".join(signals.JOBS)}.')
    output = getattr(args, 'output', None)
    if output and args.job != 'evaluate':
        raise UserError(f'--output is for `cls evaluate`, not for `cls {args.job}`.')
    if args.job != 'print':
        agreement.start(args)
        start()
    if not agreement.is_main_process():
        cli.show_log(logging.ERROR)
    if args.workdir[1:]:
        return _evaluate_together(args, overrides)

    try:
        config = _config(args, overrides)
    except defaults.MistakenConfig as error:
        refuse_mistaken(error)
    if args.job == 'print':
        print(configs.to_json(config), end='')
        return 0

    executables.enable(registration.files())
    workdir = args.workdir[0] if args.workdir else default_workdir(args.config, config)
    if args.job == 'evaluate':
        if args.config and args.workdir and _registers(config):
            config = load_config(
                workdir, overrides, KINDS
            )  # the file is there to register the model
        search.refuse(config, workdir)
        job = ensemble.evaluate_job if ensemble.is_ensemble(config) else evaluate.job
        job(config, workdir, output)
        return 0
    result = _trained(config, workdir, began)
    if search.is_search(config):
        agreement.print_once(search.summary(result, config, workdir))
        return 0
    if result is None:
        agreement.print_once(
            f'stopped before the end; the same command continues the run in {workdir}'
        )
        return signals.exit_code()
    agreement.print_once(f'{evaluate.summary(result)}; run folder: {workdir}')
    agreement.print_once(_what_next(args.config, workdir, prog))
    return 0


def _trained(config: ConfigDict, workdir: Path, began: float | None) -> Any:
    """Trains, or searches, and returns the result; None when stopped before the end."""
    if search.is_search(config):
        return search.job(config, workdir, began)
    return (ensemble.job if ensemble.is_ensemble(config) else train.job)(config, workdir, began)


def fit(
    config: str | ConfigDict,
    workdir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Trains a config, or continues its run, and returns the result of `cls train`.

    The run folder is the same as that of the command, and either continues a run of the other.

    Args:
      config: a recipe ('resnet', 'resnet:cifar10', 'my_config.py'), or the config itself, as from
        `cls.load_config`.
      workdir: the run folder; None: a folder in runs/ with a name made from the config.
      overrides: fields by their dotted names, as {'optim.lr': 0.1}.

    Returns:
      The content of result.json ('test/top1', ...); None when stopped before the end.

    Raises:
      UserError: for mistakes in the config, all of them together, before anything is written.

    Example:
      >>> result = cls.fit('resnet', 'runs/digits', {'duration': '2 epochs'})
      >>> result['test/top1']
    """
    pairs = [(name, value if isinstance(value, str) else repr(value))
             for name, value in (overrides or {}).items()]  # fmt: skip
    folder = None if workdir is None else storage.checked(workdir)
    spec = config if isinstance(config, str) else config.get('model', {}).get('name', 'run')
    try:
        if isinstance(config, str):
            loaded = configs.load(config, pairs, _begun([folder] if folder else []))
        else:
            loaded = configs.from_json(configs.to_json(config), pairs)
    except defaults.MistakenConfig as error:
        refuse_mistaken(error)
    start()
    return _trained(loaded, folder or default_workdir(spec, loaded), None)


def _config(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> ConfigDict:
    """Returns the config of --config or --workdir, with overridden fields."""
    if args.config:
        return configs.load(args.config, overrides, _begun(args.workdir))
    if args.workdir:
        return load_config(args.workdir[0], overrides, KINDS)
    raise UserError('give --config, for example amoebanet, or the --workdir of a run to go on.')


def _evaluate_together(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Evaluates several run folders as an ensemble."""
    registers = bool(args.config) and _registers(configs.load(args.config))
    if args.job != 'evaluate' or (args.config and not registers):
        raise UserError('several --workdir folders are for `cls evaluate`, without --config.')
    runs = [(load_config(folder, overrides, KINDS), folder) for folder in args.workdir]
    for one in runs:
        search.refuse(*one)
    ensemble.together_job(runs, args.output)
    return 0


def _what_next(spec: str | None, workdir: Path, prog: str) -> str:
    """Returns suggested commands after a finished run, quoted for the shell."""
    evaluation, printing, training = (_command(prog, job) for job in ('evaluate', 'print', 'train'))
    of_run = f'--workdir {shlex.quote(str(workdir))}'
    lines = ['what next:', f'  {evaluation} {of_run}  # each class, calibration']
    file = spec.partition(':')[0] if spec else ''
    with contextlib.suppress(Exception):  # not every config has this arm
        configs.load(f'{file}:folder=DIR')
        lines.append(
            f'  {training} --config {shlex.quote(file)}:finetune,folder=DIR --config.init=WEIGHTS'
            '  # your images'
        )
    lines.append(f'  {printing} {of_run}  # all that can be changed')
    script = _shown(Path(sys.argv[0]))
    if prog.startswith('cls ') and script != 'cls':
        activate = shlex.quote(str(Path(script).with_name('activate')))
        lines.append(f'After `source {activate}` the command is `cls`, from any folder.')
    return '\n'.join(lines)


def _command(prog: str, job: str) -> str:
    """Returns the start of a command that runs a job in the same way as this program."""
    if prog.startswith('cls '):
        return f'{shlex.quote(_shown(Path(sys.argv[0])))} {job}'
    command = f'{shlex.quote(_shown(Path(sys.executable)))} '
    # The launchers set it when they are called in another folder; the shell there has not.
    paths = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))
    ours = [path for path in paths if Path(path).resolve() == configs.ROOT]
    if ours and Path.cwd() != configs.ROOT:
        command = f'PYTHONPATH={shlex.quote(ours[0])} {command}'
    if prog == 'python -m cls.main':
        return f'{command}-m cls.main' + (f' --job {job}' if job != 'train' else '')
    return f'{command}-m cls {job}'


def _shown(program: Path) -> str:
    """Returns a program as the shell finds it: by name, relative to this folder, or by path."""
    if shutil.which(program.name) == str(program):
        return program.name
    if shutil.which('python') == str(program):
        return 'python'
    if program.is_relative_to(Path.cwd()):
        return str(program.relative_to(Path.cwd()))
    return str(program)


def _begun(workdirs: list[Path]) -> ConfigDict | None:
    """Returns the config of the run in a folder, None without a run or with a broken config."""
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
        return Path('runs') / _short(f'search-{stem}', digest)
    first = next(iter(config.members.values())) if ensemble.is_ensemble(config) else config
    data = first.data.name.partition(':')
    data = Path(data[2]).name or data[0]
    return Path('runs') / _short(f'{stem}-{data}', digest)


def _short(name: str, digest: str) -> str:
    """Returns NAME-DIGEST, with the end of a name that is too long for a folder cut off."""
    room = _LONGEST_NAME - len(digest) - 1
    return f'{os.fsdecode(os.fsencode(name)[:room])}-{digest}'


def _registers(config: ConfigDict) -> bool:
    """Whether a config file of the user registers the model, or another name, of a config."""
    return any(name.origin for name in names(config.to_dict()))
