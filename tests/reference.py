"""Writes the API reference.

    python tests/reference.py DIR

It runs `python -m pdoc -d google -o DIR cls`, and fails if a module cannot be imported, if a
docstring or an annotation cannot be read, or if a module has no page.
"""

import pkgutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules(folder, name):
    """Yields the names of a package and its public modules."""
    yield name
    for module in pkgutil.iter_modules([str(folder)]):
        if module.name.startswith('_'):
            continue
        if module.ispkg:
            yield from modules(folder / module.name, f'{name}.{module.name}')
        else:
            yield f'{name}.{module.name}'


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    pages = Path(sys.argv[1])
    # At its first import matplotlib asks fc-list for the fonts. pdoc would report the suppressed
    # call.
    subprocess.run([sys.executable, '-c', 'import matplotlib.font_manager'], check=True)
    command = [sys.executable, '-m', 'pdoc', '-d', 'google', '--no-show-source', '-o', pages, 'cls']
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode or 'Warn' in done.stderr:
        sys.exit('error: pdoc could not read all of cls, see above')
    missing = [
        name
        for name in modules(ROOT / 'cls', 'cls')
        if not (pages / name.replace('.', '/')).with_suffix('.html').is_file()
    ]
    if missing:
        sys.exit(f'error: no page for {", ".join(missing)}: does `__all__` leave them out?')


if __name__ == '__main__':
    main()
