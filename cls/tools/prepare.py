"""Prepares data sets for training, as ArrayRecord files that are read without TensorFlow.

    python -m cls.tools.prepare cifar10 [NAME...] [--data_dir DIR] [--manual_dir DIR]

NAME is a TFDS data set, NAME/CONFIG one of its configurations. It is written to DIR (default:
TFDS_DATA_DIR, else ~/tensorflow_datasets), where `--config.data.name=tfds:NAME` finds it.

mnist, fashion_mnist, cifar10, cifar100, svhn_cropped and imagenet2012 are prepared by this command
from their authors' files. Files in --manual_dir (default: DIR/downloads/manual) or in its folder
NAME are used, the others are downloaded and checked. ImageNet's two tar files are available only
from image-net.org, with an account; put them into --manual_dir unchanged. Writing a data set takes
twice its size in DIR.

Any other data set is downloaded and prepared by TFDS. This needs two packages that training does
not need: pip install tensorflow-cpu importlib_resources.
"""

import importlib.util
import os
from pathlib import Path

from etils import epath

from cls import cli
from cls.cli import Parser
from cls.data import tfds_sets
from cls.errors import UserError, nearest
from cls.storage import paths

PROG = 'python -m cls.tools.prepare'

EXTRA_MODULES = {'tensorflow': 'tensorflow-cpu', 'importlib_resources': 'importlib_resources'}


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__)
    flags.add_argument('names', nargs='+', metavar='NAME', help='a TFDS data set, or digits')
    flags.add_argument('--data_dir', default='', help='folder of prepared data sets')
    flags.add_argument('--manual_dir', default='', help='folder of files that you downloaded')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Prepares the named data sets; returns 0 or raises UserError."""
    args = parser(prog).parse_args(argv)
    manual = epath.Path(
        args.manual_dir or tfds_sets.tfds_dir(args.data_dir) / 'downloads' / 'manual'
    ).expanduser()

    missing = []
    for name in args.names:
        if name == 'digits':
            from cls.data import digits

            print(f'digits: prepared in {digits.prepare(args.data_dir).data_dir}')
        elif tfds_sets.find_prepared(name, args.data_dir):
            folder = tfds_sets.prepared(name, args.data_dir).data_dir
            print(f'{name}: already prepared in {folder}')
        else:
            missing.append(name)
    # Every name is checked before the first download, which may take a night.
    for name in missing:
        check(name, args.data_dir, manual)
    check_apart(missing, Path(manual))
    for name in missing:
        print(f'{name}: prepared in {prepare(name, args.data_dir, manual)}')
    return 0


def check(name: str, data_dir: str, manual: epath.Path) -> None:
    """Raises UserError if NAME[/CONFIG] is unknown to TFDS, or its preparation lacks something."""
    import tensorflow_datasets as tfds

    from cls.data.prepare import builders, imagenet

    dataset, _, config = name.partition('/')
    names = tfds_sets.known_datasets()
    if dataset not in names:
        raise UserError(
            f"'{dataset}' is not known to TFDS: expected one of its data sets, see "
            f'https://www.tensorflow.org/datasets/catalog.{nearest(dataset, names)}'
        )
    builder = tfds.builder_cls(dataset)
    if config and config not in builder.builder_configs:
        configs = list(builder.builder_configs)
        expected = f'one of {", ".join(configs[:20])}' if configs else f'just {dataset}'
        raise UserError(
            f"'{config}' is not a configuration of {dataset}: expected {expected}"
            f'{", ..." if len(configs) > 20 else ""}.{nearest(config, configs)}'
        )
    if name in builders.RECIPES:
        for folder in (manual, data_dir or os.environ.get('TFDS_DATA_DIR', '')):
            if paths.is_remote(folder):
                raise UserError(
                    f'{folder} is not on this machine: expected a local folder to prepare {name} '
                    'in, which can be copied there afterwards.'
                )
        if name == 'imagenet2012':
            imagenet.check_tars(Path(manual), builders.locate(name, Path(manual)))
        return
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not (manual.is_dir() and any(manual.iterdir())):
        raise UserError(
            f'{name} has to be downloaded by hand, into {manual} or the folder that --manual_dir '
            f'names: {" ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())}'
        )
    lacking = [pip for module, pip in EXTRA_MODULES.items() if not importlib.util.find_spec(module)]
    if lacking:
        raise UserError(
            f'Preparing {name} needs {" and ".join(lacking)} (training does not): run '
            f'`pip install {" ".join(lacking)}`.'
        )


def check_apart(names: list[str], manual: Path) -> None:
    """Raises UserError if one file would be used for two data sets with equal file names."""
    from cls.data.prepare import builders

    taken = {}
    for name in names:
        for file in builders.locate(name, manual).values() if name in builders.RECIPES else ():
            if taken.setdefault(file, name) != name:
                raise UserError(
                    f'{file} would be taken for {taken[file]} and for {name}: expected the files '
                    f'of each in a separate folder, {manual / taken[file]} and {manual / name}.'
                )


def prepare(name: str, data_dir: str, manual: epath.Path) -> str:
    """Downloads and prepares NAME[/CONFIG]; returns its folder. Raises UserError on failure."""
    import tensorflow_datasets as tfds

    from cls.data.prepare import builders

    root = tfds_sets.tfds_dir(data_dir)
    try:
        if name in builders.RECIPES:
            return builders.prepare(name, Path(root), Path(manual))
        builder = tfds.builder(name, data_dir=root, file_format='array_record')
        options = tfds.download.DownloadConfig(manual_dir=manual)
        builder.download_and_prepare(download_config=options)
    except OSError as error:  # no connection, no room, no permission
        reason = ' '.join(str(error).split())
        raise UserError(
            f'{name} cannot be downloaded to, or written in, {root}: {reason}. '
            'Fix this and run the same command again: finished downloads are kept.'
        ) from error
    return builder.data_dir


if __name__ == '__main__':
    cli.run(main)
