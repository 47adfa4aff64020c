"""Writes <package>.npz here: logits of a package's networks, to test its table of names.

    python tests/weights/families/make_rows.py transformers             # missing rows
    python tests/weights/families/make_rows.py transformers "resnet-*"  # some rows

Needs PyTorch and the package, and nothing of `cls`. Rows are those of tests/golden/rows.py, with
weights drawn from the names of the package's file. Images are small where a network allows; a pool
of fixed size is made adaptive; this is the same for images of the network's own size.
"""

import fnmatch
import importlib
import importlib.metadata
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / 'golden'), str(HERE)]
import make  # noqa: E402
import rows  # noqa: E402
from make import Task  # noqa: E402

warnings.filterwarnings('ignore')
_installed = importlib.metadata.version


def _version(package: str) -> str:
    """Returns the version of a package, or that its networks are of clones (packages/clones.py)."""
    return 'clones' if package in ('authors', 'repositories') else _installed(package)


importlib.metadata.version = _version
make.CONTRAST = 0.25
# Each costs a forward pass. Between 1.8 and 3 the rounding of EfficientNets in float32 grows from
# 1e-6 of the logits' spread to more than the spread.
make.GAINS = (0.7, 1.1, 1.4, 1.6, 1.65, 1.7, 1.75, 1.8, 2.0, 2.1, 2.2, 3.0)


def main(package: str, pattern: str = '*') -> None:
    """Writes the rows of a package's networks that match a shell pattern."""
    networks = importlib.import_module(f'packages.{package}').NETWORKS
    file = f'../weights/families/{package}'
    result = {name: row for name, row in rows.read(file).items() if name in networks}
    for name, (build, size) in networks.items():
        if fnmatch.fnmatchcase(name, pattern) and (pattern != '*' or name not in result):
            task = Task(f'{package}:{name}', size, build=build)
            try:
                result[name] = make.make_row('', task)
            except RuntimeError as error:
                print(error)
                continue
            rows.write(file, result)


if __name__ == '__main__':
    main(*sys.argv[1:])
