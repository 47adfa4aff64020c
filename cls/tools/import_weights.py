"""Makes a run folder of a foreign checkpoint.

  python -m cls.tools.import_weights --model resnet50 --from resnet50.pth --workdir runs/r50
  python -m cls.tools.import_weights --model resnet50 --from hf:timm/resnet50.tv_in1k --workdir ...
  python -m cls.main --job evaluate --workdir runs/r50 --config.data.name=folder:/data/imagenet
  python -m cls.main --workdir runs/r50 --config.data.name=... --config.optim.lr=0.01

--from takes a PyTorch or safetensors file, an .npz of a Keras net's tensors, a snapshot folder of
the Hugging Face Hub, or hf:OWNER/NAME. Every tensor is used once and every variable filled, or
nothing is written. Where evaluation and fine-tuning start from is the config that is printed and
saved; --config.FIELD=VALUE changes it, for example --config.model.num_classes=10 for weights of ten
classes. A run of another config, with another head if need be, starts from the folder, or from the
file itself, by --config.init (see cls.init_from). A net of 1,000 classes is taken for one of
ImageNet's, in the order of the sorted WordNet ids (classes.json in the folder): with that, folders
of any part of ImageNet can be evaluated.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from cls import config as configs
from cls import models, optim, storage, weights
from cls.checkpoint import Checkpoints
from cls.data.benchmarks import wnids
from cls.errors import Parser, UserError, run
from cls.models.registry import Variant
from cls.runtime import claim, record, start
from cls.state import new_state
from cls.weights.hub import Preparation, locate, preparation
from configs import common


def main(argv: list[str] | None = None) -> int:
    """Writes the folder; returns the exit code. Raises UserError for what does not fit."""
    parser = Parser(
        prog='python -m cls.tools.import_weights',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--model', required=True, help='a variant of python -m cls.tools.models')
    parser.add_argument('--from', dest='source', required=True, help='file, folder, hf:OWNER/NAME')
    parser.add_argument('--workdir', required=True, type=storage.checked, help='the folder to make')
    parser.add_argument('--entry', default='', help='of a file with several sets of weights')
    parser.add_argument('--bgr', action='store_true', help='they were trained on BGR (Caffe): turn')
    args, rest = parser.parse_known_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    logging.getLogger('absl').setLevel(logging.WARNING)

    variant = models.variant(args.model)
    if args.workdir.exists() and any(args.workdir.iterdir()):
        raise UserError(f'{args.workdir} is not empty; choose another --workdir.')
    located = locate(args.source)
    prepared = preparation(variant.reference or variant.name, located.card, variant.input_size)
    config = config_of(variant, prepared, located.card.get('num_classes'))
    config = configs.from_json(configs.to_json(config), configs.parse_overrides(rest))
    fields = {k: v for k, v in config.model.items() if k not in ('name', 'dtype')}
    variables = weights.from_torch(weights.read(located.file, args.entry), args.model, **fields)
    if args.bgr:
        turn_colours(variables['params'])
    start()
    imagenet = config.data.name == 'tfds:imagenet2012' and config.model.num_classes == 1000
    write(config, variables, args.workdir, classes=wnids() if imagenet else ())
    count = sum(x.size for x in jax.tree.leaves(variables['params']))
    print(
        f'{args.workdir}: {args.model}, {count:,} parameters, every tensor used.\n'
        f'Images: {config.data.image_size} pixels, {config.data.interpolation}, '
        f'mean {config.data.mean}, std {config.data.std} '
        f'(from: {prepared.known_from}). Evaluate with\n'
        f'  python -m cls.main --job evaluate --workdir {args.workdir}'
    )
    return 0


def turn_colours(params: dict) -> None:
    """Reverses, in place, the order of the colours that the net's first convolution expects.

    Raises UserError when more than one layer, or none, could be the first.
    """
    first = [
        layer
        for path, layer in traverse_util.flatten_dict(params, sep='/').items()
        if path.endswith('/kernel') and layer.ndim == 4 and layer.shape[2] == 3
    ]
    if len(first) != 1:
        raise UserError(
            f'--bgr: {len(first)} convolutions of this net have three input channels; expected one.'
        )
    first[0][:] = first[0][:, :, ::-1].copy()


def config_of(variant: Variant, prepared: Preparation, num_classes: int | None) -> ConfigDict:
    """Returns a config to evaluate and fine-tune with, on the data set that the net is made for."""
    c = common.base()
    c.model.name = variant.name
    c.model.num_classes = num_classes or models.create(variant.name).num_classes
    if variant.input_size == 32:
        common.use_cifar(c, 'cifar100' if c.model.num_classes == 100 else 'cifar10')
    else:
        common.use_imagenet(c)
        c.data.train_crop = 'random_resized'
        c.data.eval_resize = round(variant.input_size / prepared.crop)
        c.data.interpolation = prepared.interpolation
    c.data.image_size = variant.input_size
    c.data.mean, c.data.std = prepared.mean, prepared.std
    c.optim.lr = 0.01
    return c


def write(
    config: ConfigDict,
    variables: dict,
    workdir: Path,
    averages: dict | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Writes config.json, environment.json, classes.json and the checkpoint of step 0.

    The averages of weights begin at `averages`, or at the weights. `classes` are the names of the
    net's, if known.
    """
    rate = optim.schedule(config.schedule, config.optim.lr, to_steps=lambda _: 0, total=1)
    optimizer = optim.optimizer(config.optim, rate, variables['params'])
    state = new_state(variables, optimizer, config.seed, bool(config.ema))
    state = jax.tree.map(np.asarray, state if averages is None else state.replace(ema=averages))
    with claim(workdir, config, classes):
        about = record(config, classes)
        checkpoints = Checkpoints(workdir / 'checkpoints', config.checkpoint.keep, about)
        checkpoints.save(0, state, {'step': 0}, {})
        checkpoints.close()


if __name__ == '__main__':
    run(main)
