"""Exports: files that other programs run, with the numbers of the model."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from compiling import FAST
from etils import epath
from golden import keyed
from inference import export_table
from inference.exported import Worker, drawn, normalized, row_of, source_of
from inference.tiny_run import write_run
from jax.export import symbolic_shape
from PIL import Image

import cls
from cls.errors import UserError
from cls.inference.export import exporting, onnx_file, onnx_operators, stablehlo
from cls.inference.export.onnx_builder import matched
from cls.inference.export.source import Source, difference
from cls.inference.export.trace import traced
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.nn.pool import avg_pool, max_pool
from cls.tools import export

README = Path(__file__).parents[2] / 'cls' / 'inference' / 'export' / 'README.md'
LITERT = os.environ.get('CLS_LITERT_PYTHON', '')
# Of different systems, and quick to trace.
SMALL = [
    *('metaqnn_4_cifar', 'igc_l24m2_d20_cifar', 'condensenet50_cifar_learned', 'igcv2_c416_cifar'),
    *('block_qnn_random0_cifar', 'resnet20_cifar', 'mobilenet_025', 'densenet100_k12_cifar'),
    *('squeezenet1_1', 'wrn40_1_cifar', 'shufflenetv2_0.5x', 'googlenet_bn', 'darts_v1_cifar'),
    'mobilenetv3_small_050',
]


class Net(nn.Module):
    """A network for images of any size; with `fixed`, of one."""

    num_classes: int = 5
    fixed: bool = False
    sort: bool = False

    @nn.compact
    def __call__(self, images, train=False):
        x = Conv(6, 3, strides=2, padding='SAME' if self.fixed else 1, name='conv1')(images)
        x = nn.relu(BatchNorm(train, name='bn1')(x))
        x = x + nn.relu(BatchNorm(train, name='bn2')(Conv(6, 3, use_bias=True, name='conv2')(x)))
        x = x.mean((1, 2))
        return nn.Dense(self.num_classes)(jnp.sort(x, -1) if self.sort else x)


def net(**fields):
    module = Net(**fields)
    variables = drawn(module, 16)
    return Source(module, variables, 16, 3, normalized, description={'name': 'net'})


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp('export') / 'run')


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """A folder of images, twelve of two classes."""
    folder, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    for i in range(12):
        file = folder / ('ant' if i % 2 else 'bee') / f'{i:02}.png'
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(file)
    return folder


@pytest.fixture(scope='module')
def worker():
    process = Worker(FAST)
    yield process
    process.end()


def exported(run_folder, output, *flags):
    assert export.main(['--from', str(run_folder), '--output', str(output), *flags]) == 0
    return output


def by_onnxruntime(function, images):
    """Returns the ONNX model of a function of images, and its output for some."""
    shape = ('N', *images.shape[1:])
    spec = jax.ShapeDtypeStruct(symbolic_shape(', '.join(map(str, shape))), np.dtype(images.dtype))
    model = onnx_file.proto(traced(function, spec), 'out')
    onnx.checker.check_model(model)
    session = onnx_file.session(model.SerializeToString(), 1)
    return model, onnx_file.outputs(session, images)


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


# ------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize('name', SMALL)
def test_both_formats_give_the_logits_of_the_reference(name, tmp_path, worker):
    row, source = row_of(name), source_of(name)
    images = keyed.images(row.count, row.size, row.channels)
    spec = source.spec_of_any_number()
    graph = traced(source.compute, spec)
    (file,) = stablehlo.write(stablehlo.program_of(graph, spec, external=False), tmp_path / 'a')
    outputs = worker.run(file, images, tmp_path)
    assert difference(outputs, row.logits) < 1e-4
    (file,) = onnx_file.write(source, tmp_path / 'a.onnx', graph)
    session = onnx_file.session(file, 1)
    assert difference(onnx_file.outputs(session, images), row.logits) < 1e-4
    one = onnx_file.outputs(session, images[:1])  # any number of images
    assert difference(one, row.logits[:1]) < 1e-4


def test_norms_are_folded_and_images_are_transposed_once():
    source = source_of('resnet20_cifar')
    model = onnx_file.proto(traced(source.compute, source.spec_of_any_number()), 'logits')
    of = operators(model)
    assert of['Transpose'] == of['Gemm'] == of['ReduceMean'] == 1
    assert of['Conv'] == 19
    assert not {'BatchNormalization', 'Mul', 'Reshape', 'Div', 'Expand'} & set(of)


def test_the_graph_has_no_choice_of_a_platform_and_each_platform_is_in_the_file():
    source = source_of('mobilenet_025')
    spec = source.spec_of_any_number()
    graph = traced(source.compute, spec)
    primitives = {node.op for node in graph.nodes}
    assert primitives == {
        *('conv_general_dilated', 'scale_and_shift', 'max', 'reduce_sum', 'div', 'add'),
        *(('min',) if 'min' in primitives else ()),
        *(('dot_general',) if 'dot_general' in primitives else ()),
    }
    made = stablehlo.program_of(graph, spec)
    assert made.exported.platforms == ('cpu', 'cuda', 'tpu')


# -------------------------------------------------------------------------------------- formats


def test_stablehlo_takes_images_of_any_size_where_the_network_does(tmp_path, worker):
    source = net()
    result = exporting.to_stablehlo(source, tmp_path / 'net')
    assert result.free == ('N', 'H', 'W')
    assert result.difference < 1e-4
    images = source.samples(2, 27)
    outputs = worker.run(tmp_path / 'net', images, tmp_path)
    assert difference(outputs, np.asarray(source.compute(images))) < 1e-4
    fixed = stablehlo.program(net(fixed=True))
    assert fixed.free == ('N',)
    assert stablehlo.program(source, any_size=False).free == ('N',)


def test_the_page_loads_an_export_with_jax_alone(run_folder, tmp_path):
    """The blocks of the page, in a process that cannot import cls."""
    exported(run_folder, tmp_path / 'birds.stablehlo', '--format', 'stablehlo', '--external')
    external = {path.name for path in tmp_path.iterdir()}
    assert external == {f'birds.stablehlo{end}' for end in ('', '.npz', '.json')}
    inside = tmp_path / 'inside'
    inside.mkdir()
    exported(run_folder, inside / 'birds.stablehlo', '--format', 'stablehlo')
    first, second = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)
    model = cls.load(str(run_folder))
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    np.save(tmp_path / 'images.npy', images)
    start = f'import numpy\nimages = numpy.load({str(tmp_path / "images.npy")!r})\n'
    load = ''.join(first.splitlines(keepends=True)[:2])
    expected = np.asarray(model.module.apply(model.variables, images, train=False))
    for folder, code in ((inside, first), (tmp_path, load + second)):
        code = f'{start}{code}\nnumpy.save("logits.npy", logits)'
        subprocess.run([sys.executable, '-I', '-c', code], cwd=folder, check=True)
        assert difference(np.load(folder / 'logits.npy'), expected) < 1e-4


def test_onnx_with_pixels_gives_the_probabilities_of_the_model(run_folder, photos, tmp_path):
    file = exported(run_folder, tmp_path / 'model.onnx', '--format', 'onnx', '--pixels')
    model = cls.load(str(run_folder))
    files = sorted(map(str, photos.rglob('*.png')))
    pixels = model.preprocess.pixels(files)
    assert pixels.dtype == np.uint8
    actual = onnx_file.outputs(onnx_file.session(file), pixels)
    np.testing.assert_allclose(actual, model(files), atol=1e-5)
    read = onnx.load(str(file))
    (opset,) = read.opset_import
    assert opset.version == onnx_file.OPSET
    metadata = {entry.key: entry.value for entry in read.metadata_props}
    assert json.loads(metadata['classes']) == list(model.classes)
    assert json.loads(metadata['preparation'])['resize'] == 36
    assert metadata['output'] == 'probabilities'
    assert {path.name for path in tmp_path.iterdir()} == {'model.onnx'}


def test_weights_beside_an_onnx_graph(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_file, 'INSIDE', 100)
    source = net()
    result = exporting.to_onnx(source, tmp_path / 'net.onnx')
    assert [file.name for file in result.files] == ['net.onnx', 'net.onnx.data']
    images = source.samples(2)
    outputs = onnx_file.outputs(onnx_file.session(tmp_path / 'net.onnx'), images)
    assert difference(outputs, np.asarray(source.compute(images))) < 1e-4


def test_int8_weights_and_the_accuracy_before_and_after(run_folder, photos, tmp_path, capsys):
    flags = ('--format', 'onnx', '--quantize', 'int8', '--images', str(photos))
    file = exported(run_folder, tmp_path / 'q.onnx', *flags, '--calibration', '4')
    text = capsys.readouterr().out
    assert '8 images that did not calibrate' in text
    model = cls.load(str(run_folder))
    every = sorted(map(str, photos.rglob('*.png')))
    rest = [path for i, path in enumerate(every) if i not in (0, 3, 7, 11)]
    right = [model.predict(path)[0].label == Path(path).parent.name for path in rest]
    assert f'top-1 {100 * np.mean(right):.2f} % in float32' in text
    read = onnx.load(str(file))
    kernels = [x for x in read.graph.initializer if len(x.dims) == 4]
    assert len(kernels) == 7
    assert {x.data_type for x in kernels} == {onnx.TensorProto.UINT8}
    inputs = model.preprocess(rest)
    outputs = onnx_file.outputs(onnx_file.session(file), inputs)
    assert 0 < difference(outputs, model.logits(rest)) < 1


@pytest.mark.skipif(not LITERT, reason='CLS_LITERT_PYTHON names no interpreter with LiteRT')
def test_litert(run_folder, tmp_path):
    flags = ('--format', 'litert', '--python', LITERT, '--batch', '2')
    file = exported(run_folder, tmp_path / 'model.tflite', *flags)
    assert file.read_bytes()[4:8] == b'TFL3'
    assert {path.name for path in tmp_path.iterdir()} == {'model.tflite', 'model.tflite.json'}


def test_the_page_of_variants_is_that_of_the_results():
    assert export_table.PAGE.read_text() == export_table.page(*export_table.read())


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--format', 'litert'], 'expected --python PYTHON'),
        (['--format', 'litert', '--python', '/nowhere'], 'cannot be started'),
        (
            ['--format', 'litert', '--python', sys.executable],
            'has not litert_converter and ai_edge_litert:',
        ),
        (['--format', 'onnx', '--external'], '--external is a flag of --format stablehlo'),
        (['--format', 'onnx', '--batch', '2'], '--batch is a flag of --format litert'),
        (['--format', 'onnx', '--quantize', 'int8'], '--images PLACE belong together'),
        (['--format', 'stablehlo', '--quantize', 'int8'], 'a flag of --format onnx'),
        (['--format', 'onnx', '--dtype', 'bfloat16'], 'exports compute in float32'),
        (['--format', 'onnx', '--output', '/nowhere/x'], 'there is no folder /nowhere'),
        (['--format', 'onnx', '--output', ''], 'is a folder: expected a file'),
        (['--format', 'onnx', '--calibration', '5'], '--calibration is a flag of --quantize'),
        (['--format', 'tflite'], 'invalid choice'),
        (['--format', 'onnx', '--quantize', 'int8', '--images', '/nowhere'], 'nowhere'),
    ],
)
def test_a_refusal_is_one_line_and_writes_nothing(run_folder, tmp_path, flags, message):
    arguments = ['--from', str(run_folder), '--output', str(tmp_path / 'model'), *flags]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        export.main(arguments)
    assert '\n' not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_overwritten(run_folder, tmp_path):
    (tmp_path / 'model.json').write_text('mine')
    arguments = ['--from', str(run_folder), '--output', str(tmp_path / 'model')]
    with pytest.raises(UserError, match='model.json exists'):
        export.main([*arguments, '--format', 'stablehlo'])
    (tmp_path / 'model.npz').write_text('weights of an older file')
    assert export.main([*arguments, '--format', 'stablehlo', '--force']) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ['model', 'model.json']
    assert json.loads((tmp_path / 'model.json').read_text())['model'] == 'resnet20_cifar'


def test_a_store_is_no_place_for_an_export():
    with pytest.raises(UserError, match='gs://bucket/x: expected a file on this machine'):
        exporting.check_output(epath.Path('gs://bucket/x'))


def test_rounding_where_a_network_is_sure_is_no_difference():
    logits = np.zeros((1, 1000))
    logits[0, 0] = 7
    rounded = logits.copy()
    rounded[0, 0] += 2e-5
    one, other = (np.exp(x) / np.exp(x).sum() for x in (logits, rounded))
    assert difference(other, one, probabilities=True) == pytest.approx(
        2e-5 * (1 - one[0, 0]), rel=0.01
    )
    assert difference(other, one) > 1e-4
    assert difference(1.001 * one, one, probabilities=True) == pytest.approx(1e-3)


def test_an_unknown_primitive_is_named(tmp_path):
    with pytest.raises(UserError, match="the primitive 'sort' of this model"):
        exporting.to_onnx(net(sort=True), tmp_path / 'model')
    assert list(tmp_path.iterdir()) == []


def test_files_with_other_numbers_are_refused(monkeypatch, tmp_path):
    """The comparison notices a wrong operator, and a wrong constant."""
    source = net()
    wrong = {**onnx_operators.OPERATORS, 'max': onnx_operators._unary('Neg')}
    monkeypatch.setattr(onnx_operators, 'OPERATORS', wrong)
    with pytest.raises(UserError, match='differs from the model by'):
        exporting.to_onnx(source, tmp_path / 'model')

    def scaled(function, spec):
        return traced(lambda images: function(images) * 1.001, spec)

    monkeypatch.setattr(stablehlo, 'traced', scaled)
    with pytest.raises(UserError, match='differs from the model by'):
        exporting.to_stablehlo(source, tmp_path / 'model', any_size=False)
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_says_what_to_install(monkeypatch, run_folder, tmp_path):
    monkeypatch.setattr('cls.errors.importlib.util.find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"onnx is not installed: run pip install 'cls\[onnx\]'"):
        exported(run_folder, tmp_path / 'model', '--format', 'onnx')


# ------------------------------------------------------------------------------------ operators


def _shuffled(x):
    return x.reshape(*x.shape[:3], 2, 3).swapaxes(3, 4).reshape(x.shape)


def _looped(x):
    return jax.lax.map(
        lambda i: jax.lax.dynamic_slice_in_dim(x, i, 2, axis=1).sum((1, 2)), jnp.arange(3)
    ).swapaxes(0, 1)


KERNEL = np.random.default_rng(1).normal(size=(3, 3, 6, 4)).astype(np.float32)
CONV = {'window_strides': (1, 1), 'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
FUNCTIONS = {
    'relu6': lambda x: jax.nn.relu6(x * 4),
    'hard sigmoid': jax.nn.hard_sigmoid,
    'hard swish': jax.nn.hard_swish,
    'clip': lambda x: jnp.clip(x, -0.5, 0.25),
    'clamp': lambda x: jax.lax.clamp(-0.5, x, 0.25),
    'maximum of two': lambda x: jnp.maximum(x, x * x),
    'power': lambda x: x**3 + jnp.abs(x) ** 0.75,
    'square root': lambda x: jnp.sqrt(jnp.abs(x)) + jax.lax.rsqrt(1 + jnp.square(x)),
    'sigmoid': lambda x: jax.nn.sigmoid(x) - jax.nn.tanh(x),
    'erf': lambda x: jax.lax.erf(x) + jnp.log(jnp.exp(x)),
    'choice': lambda x: jnp.where(x > 0.1, x, -x) + jnp.where(x <= 0, 1.0, x),
    'comparison': lambda x: (x < 0).astype(jnp.float32) + (x >= 0.5) + (x == 0),
    'softmax': lambda x: jax.nn.softmax(x, axis=-1) + x.min(axis=2, keepdims=True),
    'mean': lambda x: x.mean((1, 2)),
    'mean that keeps axes': lambda x: x * x.mean((1, 2), keepdims=True),
    'mean of rows': lambda x: x.mean(1),
    'sum': lambda x: x.sum(3),
    'shuffle': _shuffled,
    'shuffle after a convolution': lambda x: _shuffled(jnp.concatenate([_conv(x), x], -1)[..., :6]),
    'flatten': lambda x: x.reshape(x.shape[0], -1),
    'flatten as PyTorch': lambda x: _conv(x).transpose(0, 3, 1, 2).reshape(x.shape[0], -1),
    'flatten a convolution': lambda x: _conv(x).reshape(x.shape[0], -1),
    'slices': lambda x: x[:, ::2, 1:] + x[:, 0:2, 1:],
    'mirrored': lambda x: x[:, ::-1] + 2 * x[:, :, ::-1],
    'first row': lambda x: _conv(x)[:, 0],
    'rows': lambda x: jnp.take(x, np.array([3, 0, 0]), axis=3),
    'padding': lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 3))),
    'cropping': lambda x: jax.lax.pad(x, 0.0, ((0, 0, 0), (-1, 2, 0), (1, -2, 0), (0, 0, 0))),
    'constant part': lambda x: jnp.concatenate([x, jnp.ones((x.shape[0], 4, 4, 2))], -1),
    'broadcast': lambda x: jnp.broadcast_to(x[:, :1, :1], x.shape) + 1,
    'split': lambda x: jnp.concatenate(jnp.split(x, 3, axis=-1)[::-1], -1),
    'stack': lambda x: jnp.stack([x, 2 * x], 1).sum(1),
    'loop': _looped,
    'product of two': lambda x: jnp.einsum('nhwc,nhwd->ncd', x, _conv(x)),
    'product with a matrix': lambda x: jnp.einsum('nhwc,cd->nhwd', x, KERNEL[0, 0]),
    'transposed product': lambda x: x.mean((1, 2)) @ KERNEL[0, 0] + 1,
    'max pool': lambda x: max_pool(x, 3, 2, padding=1),
    'max pool with ceil_mode': lambda x: max_pool(x, 2, 3, ceil_mode=True),
    'wide padding': lambda x: max_pool(x, 2, 2, padding=((2, 0), (0, 2))),
    'mean pool': lambda x: avg_pool(x, 2, 2),
    'mean pool without padding': lambda x: avg_pool(x, 3, 1, padding=1),
    'mean pool with padding': lambda x: avg_pool(x, 3, 2, padding=1, count_padding=True),
    'sum pool': lambda x: jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), 'VALID'
    ),
    'cropping convolution': lambda x: jax.lax.conv_general_dilated(
        x, KERNEL[:2, :2], padding=((-1, 0), (1, -1)), **CONV
    ),
    'dilated convolution': lambda x: jax.lax.conv_general_dilated(
        x, KERNEL, padding=((2, 2), (2, 2)), rhs_dilation=(2, 2), **CONV
    ),
}


def _conv(x):
    return jax.lax.conv_general_dilated(x, KERNEL, padding='SAME', **CONV)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_an_operator_computes_as_jax(name):
    images = np.random.default_rng(0).normal(size=(3, 4, 4, 6)).astype(np.float32)
    _, actual = by_onnxruntime(FUNCTIONS[name], images)
    expected = np.asarray(FUNCTIONS[name](images), actual.dtype)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('name', 'count'),
    [('shuffle after a convolution', 3), ('flatten as PyTorch', 1), ('flatten a convolution', 2)],
)
def test_transposes_are_where_an_order_is_needed(name, count):
    model, _ = by_onnxruntime(FUNCTIONS[name], np.ones((1, 4, 4, 6), np.float32))
    assert operators(model)['Transpose'] <= count


def test_the_axes_of_a_reshape_are_matched():
    assert matched((4, 6, 5), (2, 2, 30)) == [([0], [0, 1]), ([1, 2], [2])]
    assert matched((3, 1, 1, 8), (3, 8)) == [([0], [0]), ([1], []), ([2], []), ([3], [1])]
    assert matched((3, 8), (3, 1, 8)) == [([0], [0]), ([], [1]), ([1], [2])]
    (count,) = symbolic_shape('N')
    assert matched((count, 2, 3), (count, 6)) == [([0], [0]), ([1, 2], [1])]


def test_a_network_that_ignores_its_images_is_refused():
    with pytest.raises(UserError, match='does not depend on its images'):
        traced(lambda images: jnp.ones(3), jax.ShapeDtypeStruct((1, 2, 2, 3), np.float32))
