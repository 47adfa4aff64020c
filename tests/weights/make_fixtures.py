"""Writes tests/weights/fixtures with PyTorch (see tests/golden/requirements.txt).

    python tests/weights/make_fixtures.py

Values are small integers, exact in every type; test_read.py has them too.
"""

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import pickle
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import serialization

FOLDER = Path(__file__).parent / 'fixtures'


class Net(torch.nn.Sequential):
    """A module of its own class, for pickling as a whole."""


class Stage(enum.Enum):
    TRAIN = 'train'


class Runs:
    """An object that unpickles to a call; an execution would leave a file."""

    def __reduce__(self):
        return (open, ('/tmp/cls_malicious_pickle_was_here', 'w'))


def tensors() -> dict[str, torch.Tensor]:
    """Returns tensors of many types, also strided, overlapping, empty and scalar."""
    base = torch.arange(12.0)
    return collections.OrderedDict(
        float=torch.arange(6.0).reshape(2, 3),
        double=torch.arange(3, dtype=torch.float64),
        half=torch.arange(3, dtype=torch.float16),
        bfloat=torch.arange(3, dtype=torch.bfloat16),
        long=torch.tensor(7),
        int=torch.arange(-1, 2, dtype=torch.int32),
        bytes=torch.arange(3, dtype=torch.uint8),
        bool=torch.tensor([True, False]),
        transposed=base.reshape(3, 4).t(),
        every_second=base[1::2],
        whole=base,
        expanded=torch.tensor([[5.0]]).expand(2, 3),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.ones(2)),
    )


def training_script() -> dict:
    """Returns a training script's checkpoint: weights, arguments, paths, dates, arrays, a loss."""
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 1, 2, 2)).sum().backward()
    optimizer.step()
    output = pathlib.PurePosixPath('runs/1')
    arguments = argparse.Namespace(
        model='resnet50.a1_in1k', model_kwargs={'act_layer': 'gelu'}, gp=None, output=output
    )
    return {
        'epoch': 3,
        'state_dict': collections.OrderedDict(net.state_dict()),
        'optimizer': optimizer.state_dict(),
        'args': arguments,
        'output': output,
        'started': datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
        'took': datetime.timedelta(hours=1),
        'confusion': np.arange(6.0).reshape(2, 3),
        'names': np.array(['a', 'b'], object),
        'best': np.float32(91.5),
        'day': np.datetime64('2024-02-29'),
        'rng': (torch.get_rng_state(), np.random.default_rng(0)),
        'criterion': torch.nn.CrossEntropyLoss(weight=torch.ones(2)),
        'stage': Stage.TRAIN,
        'schedule': functools.partial(max, 3),
        'history': collections.defaultdict(list, {'loss': [1.0, 0.5]}),
        'queue': collections.deque([1, 2]),
    }


def save(content: object, name: str, zipped: bool = True) -> None:
    torch.save(content, FOLDER / name, _use_new_zipfile_serialization=zipped)


class AttributeDict(dict):
    """Stored hyper-parameters of a class of their own, as Lightning's."""


def wrapped(value: float) -> dict[str, torch.Tensor]:
    """Returns a state dict of a module in a wrapper of the whole module."""
    return {'module.a': torch.full((2,), value), 'module.b': torch.full((1, 2), value)}


def averages() -> None:
    """Writes files with weights of 1 and an average of 2, in the ways of training scripts."""
    plain, average = wrapped(1.0), wrapped(2.0)
    inner = {name.removeprefix('module.'): value for name, value in average.items()}
    save({'epoch': 1, 'state_dict': plain, 'state_dict_ema': inner}, 'average_timm.pth.tar')
    counted = {'n_averaged': torch.tensor(3), **average}
    save({'model': plain, 'model_ema': counted, 'epoch': 1}, 'average_torchvision.pth')
    both = {f'model.{name}': value for name, value in plain.items()}
    both |= {f'ema_model.{name}': value for name, value in average.items()}
    save({'state_dict': both, 'hyper_parameters': AttributeDict(arch='resnet50')}, 'average.ckpt')
    lightning = {f'model.{name.removeprefix("module.")}': value for name, value in plain.items()}
    averaged = {name: value + 1 for name, value in lightning.items()}
    state = {'n_averaged': torch.tensor(3)}
    swapped = {'current_model_state': lightning, 'averaging_state': state, 'state_dict': averaged}
    save({'epoch': 1, 'pytorch-lightning_version': '2.6.0', **swapped}, 'average_lightning.ckpt')
    save({'ema': {'decay': 0.9, 'module': average}, 'last_epoch': 1}, 'average_only.pth')


def parts() -> None:
    """Writes the tensors in several files with an index, of both kinds."""
    tensors = {name: torch.full((64,), float(i)) for i, name in enumerate('abcd')}
    for safe in (True, False):
        folder = FOLDER / ('parts_safetensors' if safe else 'parts_bin')
        folder.mkdir(exist_ok=True)
        save_torch_state_dict(tensors, folder, max_shard_size=600, safe_serialization=safe)


def on_a_gpu() -> None:
    """Writes tensors with the tags of storages on a GPU, in both formats."""
    serialization.register_package(0, lambda storage: 'cuda:0', lambda storage, location: storage)
    for name, zipped in (('gpu.pt', True), ('gpu.pth', False)):
        save({'model': {'_orig_mod.module.a': torch.arange(3).half()}}, name, zipped)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    averages()
    parts()
    for name, zipped in (('zip.pt', True), ('stream.pth', False)):
        save(tensors(), name, zipped)
    save({'uint16': torch.arange(3).to(torch.uint16)}, 'uint16.pt')

    net = Net(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    wrapped = {f'module.{name}': value for name, value in net.state_dict().items()}
    progress = {'epoch': 3, 'best': np.float64(91.5), 'size': torch.Size([1, 2]), 'seen': {1, 2}}
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9).state_dict()
    save({'state_dict': wrapped, 'optimizer': optimiser, **progress}, 'nested.pt')
    save({'state_dict': wrapped, 'optimizer': optimiser, **progress}, 'nested.th', zipped=False)
    attributed = torch.ones(2)
    attributed.note = 'own attribute'
    save(
        {'model': {'a': torch.ones(2), 'b': attributed}, 'other': {'a': torch.zeros(2)}}, 'model.pt'
    )

    save(net, 'module.pt')  # the stream format would contain the source code of PyTorch's classes
    save({'a': torch.ones(1), 'b': Runs()}, 'malicious.pt')
    save({'a': torch.ones(1), 'b': Runs()}, 'malicious.pth', zipped=False)
    (FOLDER / 'malicious.pkl').write_bytes(pickle.dumps(Runs(), 2))
    torch.jit.script(torch.nn.Identity()).save(FOLDER / 'script.pt')
    save({'a': torch.eye(2).to_sparse()}, 'sparse.pt')
    save({'a': torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, 'quantized.pt')
    save({'a': torch.empty(2, device='meta')}, 'meta.pt')
    save([torch.ones(2)], 'list.pt')
    save({'epoch': 3, 'generator': {'a': torch.ones(2)}}, 'unnamed.pt')
    save(training_script(), 'script.pth.tar')
    save(training_script(), 'script.th', zipped=False)
    plain = {name: t.detach().contiguous().clone() for name, t in tensors().items()}
    save_file(plain, FOLDER / 'tensors.safetensors')
    on_a_gpu()  # the last one: it changes the tags of all later files


if __name__ == '__main__':
    main()
