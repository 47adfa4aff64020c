"""Builds the extension that lets programs for one CPU device call oneDNN.

Training steps on an x86-64 CPU are faster with it. It needs g++ and the packages of
`pip install 'cls[onednn]'`, takes a few seconds, and is kept in the cache (CLS_CACHE_DIR), where
every later run finds it.
"""

from cls.cli import Parser, run
from cls.errors import UserError
from cls.onednn.build import build
from cls.onednn.load import load

PROG = 'python -m cls.tools.onednn'


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    return Parser(prog=prog, description=__doc__)


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Builds and loads the extension; returns the exit code."""
    parser(prog).parse_args(argv)
    path = build()
    version = load()
    if not version:
        raise UserError(f'{path} cannot be loaded, see the warning above.')
    print(f'{path}: oneDNN {version}')
    return 0


if __name__ == '__main__':
    run(main)
