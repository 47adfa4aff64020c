"""The command `cls`, or `python -m cls`: imports the module of a command and runs it.

May import: anything.
"""

import functools
import importlib
import sys
from pathlib import Path

from cls import __version__, huge_pages, signals
from cls.cli import run
from cls.commands import COMMANDS
from cls.errors import UserError, nearest

# The commands whose time is that of programs on the devices.
_COMPUTING = ('train', 'evaluate', 'predict', 'explain', 'robustness', 'serve')


def usage(prog: str) -> str:
    """Returns the list of commands."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f'  {name:{width}}{command.summary}' for name, command in COMMANDS.items()]
    return '\n'.join(
        [
            f'usage: {prog} COMMAND [FLAG ...]',
            '',
            'Published image classifiers in JAX: recipes, training, evaluation.',
            '',
            *lines,
            '',
            f'{prog} COMMAND --help lists the flags of a command, {prog} --version the version.',
        ]
    )


def dispatch(prog: str) -> int:
    """Runs the command of sys.argv; returns its exit code. Raises UserError for an unknown one."""
    name, *flags = sys.argv[1:] or ['--help']
    if name == 'help' and flags:
        name, flags = flags[0], ['--help']
    if name in ('-h', '--help', 'help'):
        print(usage(prog))
        return 0
    if name == '--version':
        print(f'cls {__version__}')
        return 0
    if name not in COMMANDS:
        raise UserError(
            f'there is no command {name!r}.{nearest(name, COMMANDS)} {prog} --help lists them.'
        )
    command = COMMANDS[name]
    sys.argv[1:] = flags
    module = importlib.import_module(command.module)
    return module.main(prog=f'{prog} {name}', **command.options)


def main() -> None:
    """Runs the program and exits."""
    if sys.argv[1:2] and sys.argv[1] in _COMPUTING or sys.argv[1:3] == ['benchmark', 'model']:
        huge_pages.restart()
    is_module = Path(sys.argv[0]).name == '__main__.py'
    signals.begin(['cls', *sys.argv[1:]])  # python -m has begun already
    run(functools.partial(dispatch, 'python -m cls' if is_module else 'cls'))


if __name__ == '__main__':
    main()
