"""Prints the completion of commands, flags, recipes and models for a shell.

  cls completion bash > ~/.local/share/bash-completion/completions/cls
  cls completion zsh > DIR/_cls       DIR must be in $fpath
  cls completion fish > ~/.config/fish/completions/cls.fish

The next shell that starts uses it. Print it again after an update of cls.
"""

import argparse
import dataclasses
import importlib
import shlex
from collections.abc import Iterator, Mapping, Sequence

from cls import models, signals
from cls.cli import Parser, run
from cls.commands import COMMANDS
from cls.config import files

PROG = 'python -m cls.tools.completion'
SHELLS = ('bash', 'zsh', 'fish')

BASH = """\
# Completion of cls for bash.
_cls() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" flag="${{COMP_WORDS[COMP_CWORD - 1]}}" words=
  [[ "$flag" != = ]] || flag="${{COMP_WORDS[COMP_CWORD - 2]}}"
  if [[ "$current" == = ]]; then
    flag="${{COMP_WORDS[COMP_CWORD - 1]}}" current=
  fi
  if ((COMP_CWORD == 1)); then
    words={commands}
  else
    case "${{COMP_WORDS[1]}} $flag" in
{values}
    esac
    if [[ -z "$words" && ("$current" == -* || "$flag" != -*) ]]; then
      case "${{COMP_WORDS[1]}}" in
{flags}
      esac
    fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _cls cls
"""
ZSH = """\
#compdef cls
# Completion of cls for zsh.
_cls() {{
  local -a commands flags
  commands=({commands})
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  case "$words[2] $words[CURRENT-1]" in
{values}
  esac
  case "$words[2]" in
{flags}
  esac
  [[ "$PREFIX" != -* ]] || _describe flag flags
  _files
}}
if [[ "$funcstack[1]" == _cls ]]; then
  _cls "$@"
else
  compdef _cls cls
fi
"""


@dataclasses.dataclass(frozen=True)
class Argument:
    """A flag, or with an empty name a positional argument.

    Attributes:
      name: the flag, as '--config'.
      doc: one line of help.
      words: the accepted values; () if they are files, numbers or unknown.
      takes_value: whether a value follows.
    """

    name: str
    doc: str
    words: tuple[str, ...]
    takes_value: bool


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__)
    flags.add_argument('shell', choices=SHELLS, help='bash, zsh or fish')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Prints the completion; returns the exit code."""
    shell = parser(prog).parse_args(argv).shell
    commands = {name: arguments(name) for name in COMMANDS}
    print({'bash': bash, 'zsh': zsh, 'fish': fish}[shell](commands), end='')
    return 0


def arguments(command: str) -> list[Argument]:
    """Returns the arguments that the parser of a command has."""
    row = COMMANDS[command]
    flags = importlib.import_module(row.module).parser(prog=f'cls {command}', **row.options)
    return [argument for action in flags._actions for argument in _arguments(action)]


def _arguments(action: argparse.Action) -> list[Argument]:
    values = {'config': files.names, 'model': models.names, 'job': lambda: signals.JOBS}
    words = values[action.dest]() if action.dest in values else action.choices or ()
    names = [name for name in action.option_strings if name.startswith('--')] or ['']
    return [Argument(name, action.help or '', tuple(words), action.nargs != 0) for name in names]


def bash(commands: Mapping[str, Sequence[Argument]]) -> str:
    """Returns the script for bash."""
    values = [
        f'      {shlex.quote(f"{command} {argument.name}")}) words={_words(argument.words)} ;;'
        for command, argument in _with_words(commands)
        if argument.name
    ]
    flags = [
        f'        {command}) words={_words(_offered(flags))} ;;'
        for command, flags in commands.items()
    ]
    names = _words(list(commands))
    return BASH.format(commands=names, values='\n'.join(values), flags='\n'.join(flags))


def zsh(commands: Mapping[str, Sequence[Argument]]) -> str:
    """Returns the script for zsh."""
    described = ' '.join(
        shlex.quote(f'{name}:{_plain(COMMANDS[name].summary)}') for name in commands
    )
    values = [
        f'    {shlex.quote(f"{command} {argument.name}")}) compadd -- '
        f'{" ".join(map(shlex.quote, argument.words))} ;;'
        for command, argument in _with_words(commands)
        if argument.name
    ]
    flags = []
    for command, row in commands.items():
        offered = [f'{a.name}:{_plain(a.doc)}' for a in row if a.name]
        positional = [word for a in row if not a.name for word in a.words]
        flags.append(f'    {command})')
        flags.append(f'      flags=({" ".join(map(shlex.quote, offered))})')
        if positional:
            flags.append(f'      compadd -- {" ".join(map(shlex.quote, positional))}')
        flags.append('      ;;')
    return ZSH.format(commands=described, values='\n'.join(values), flags='\n'.join(flags))


def fish(commands: Mapping[str, Sequence[Argument]]) -> str:
    """Returns the script for fish."""
    lines = ['# Completion of cls for fish.']
    for name in commands:
        summary = shlex.quote(_plain(COMMANDS[name].summary))
        lines.append(f'complete -c cls -n __fish_use_subcommand -f -a {name} -d {summary}')
    for name, row in commands.items():
        start = f"complete -c cls -n '__fish_seen_subcommand_from {name}'"
        for argument in row:
            words = f' -a {_words(argument.words)}' if argument.words else ''
            flag = f' -l {argument.name.removeprefix("--")}' if argument.name else ''
            value = ' -r' if flag and argument.takes_value else ''
            if flag or words:
                lines.append(f'{start}{flag}{value}{words} -d {shlex.quote(_plain(argument.doc))}')
    return '\n'.join(lines) + '\n'


def _with_words(commands: Mapping[str, Sequence[Argument]]) -> Iterator[tuple[str, Argument]]:
    for command, row in commands.items():
        for argument in row:
            if argument.words:
                yield command, argument


def _offered(row: Sequence[Argument]) -> list[str]:
    """Returns the flags and the values of positional arguments."""
    return [word for a in row for word in ([a.name] if a.name else a.words)]


def _words(words: Sequence[str]) -> str:
    return shlex.quote(' '.join(words))


def _plain(text: str) -> str:
    """Returns a text without characters that are special to shells, argparse or zsh."""
    return text.replace('%%', '%').replace("'", '').replace(':', ' -').replace('`', '')


if __name__ == '__main__':
    run(main)
