"""Convolutions of the extension by Winograd's algorithm, against sums over taps in float64."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import taps

from cls.nn.cpu import native


def geometry(pads):
    """The numbers of a convolution at stride 1 in one group."""
    return native.Geometry((1, 1), pads, (1, 1), 1)


def in_float64(images, kernel, pads):
    return taps.in_float64(images, kernel, *geometry(pads))


def image_grad_in_float64(kernel, grad, shape, pads):
    """Returns the gradient of images of a shape, from that of images with all their padding."""
    mirrored = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    padded = in_float64(grad, mirrored, ((2, 2), (2, 2)))
    (top, _), (left, _) = pads
    return padded[:, top : top + shape[1], left : left + shape[2]]


def kernel_grad_in_float64(images, grad, pads):
    """Returns the sums over images and pixels of products, (3, 3, inputs, outputs)."""
    padded = np.pad(np.asarray(images, np.float64), ((0, 0), *pads, (0, 0)))
    (height, width), grad = grad.shape[1:3], np.asarray(grad, np.float64)
    out = np.zeros((3, 3, images.shape[-1], grad.shape[-1]))
    for i, j in np.ndindex(3, 3):
        seen = padded[:, i : i + height, j : j + width]
        out[i, j] = np.tensordot(seen, grad, ((0, 1, 2), (0, 1, 2)))
    return out


def integers(rng, *shape):
    """Returns numbers whose products and sums, also those with factors of 1/4, are exact."""
    return 4.0 * rng.integers(-8, 9, shape).astype(np.float32)


def cases(count):
    """Yields shapes of images and kernel, and pads, that are not all multiples of anything."""
    rng = np.random.default_rng(0)
    pair = lambda low, high: tuple(int(x) for x in rng.integers(low, high, 2))  # noqa: E731
    for _ in range(count):
        images = (int(rng.integers(2, 5)), *pair(7, 16), int(rng.integers(16, 60)))
        yield images, (3, 3, images[-1], int(rng.integers(11, 80))), (pair(0, 4), pair(0, 4))


def test_integers_are_exact(extension):
    rng = np.random.default_rng(1)
    for images_shape, kernel_shape, pads in cases(40):
        images, kernel = integers(rng, *images_shape), integers(rng, *kernel_shape)
        out, undo = jax.vjp(lambda x, w, p=pads: native.conv(x, w, geometry(p)), images, kernel)
        expected = in_float64(images, kernel, pads)
        grad = integers(rng, *expected.shape)
        of_images, of_kernel = undo(grad)
        wanted = image_grad_in_float64(kernel, grad, images_shape, pads)
        case = str((images_shape, kernel_shape, pads))
        np.testing.assert_array_equal(out, expected, err_msg=case)
        np.testing.assert_array_equal(of_images, wanted, err_msg=case)
        wanted = kernel_grad_in_float64(images, grad, pads)
        np.testing.assert_array_equal(of_kernel, wanted, err_msg=case)


PADS = ((1, 1), (1, 1))


@pytest.mark.parametrize('inputs', [16, 512])
def test_rounding_is_that_of_a_sum_over_inputs(extension, inputs):
    rng = np.random.default_rng(2)
    images = rng.standard_normal((2, 12, 12, inputs), np.float32)
    kernel = rng.standard_normal((3, 3, inputs, inputs), np.float32)
    out, undo = jax.vjp(lambda x: native.conv(x, kernel, geometry(PADS)), images)
    grad = image_grad_in_float64(kernel, images, images.shape, PADS)
    deviation = np.sqrt(9 * inputs)  # of the results
    for value, expected in ((out, in_float64(images, kernel, PADS)), (undo(images)[0], grad)):
        error = np.sqrt(np.mean(np.square(value - expected))) / deviation
        assert 0 < error < np.finfo(np.float32).eps * np.sqrt(inputs) / 2


@pytest.mark.parametrize('count', [1, 40])
def test_rounding_is_that_of_a_sum_over_pixels(extension, count):
    rng = np.random.default_rng(6)
    images = rng.standard_normal((count, 12, 12, 40), np.float32)
    grad = rng.standard_normal((count, 12, 12, 56), np.float32)
    kernel = np.zeros((3, 3, 40, 56), np.float32)
    value = jax.vjp(lambda w: native.conv(images, w, geometry(PADS)), kernel)[1](grad)[0]
    summands = 144 * count
    error = np.sqrt(np.mean(np.square(value - kernel_grad_in_float64(images, grad, PADS))))
    assert 0 < error / np.sqrt(summands) < np.finfo(np.float32).eps * np.sqrt(summands) / 2


ALLOWED = os.environ.get('ONEDNN_MAX_CPU_ISA', 'ALL').upper()  # an instruction set of oneDNN
CPUINFO = Path('/proc/cpuinfo')  # only Linux has it, and the extension
FLAGS = CPUINFO.read_text().split() if CPUINFO.exists() else []
WIDE = 'avx512f' in FLAGS and ALLOWED.startswith(('ALL', 'DEFAULT', 'AVX512', 'AVX10'))
NARROW = WIDE or ('avx2' in FLAGS and ALLOWED.startswith(('ALL', 'DEFAULT', 'AVX2', 'AVX512')))


def test_it_is_used_where_it_pays(extension):
    """A pixel alone shows the kernel: to the bit by the definition, rounded by the algorithm."""
    if not NARROW:
        pytest.skip('a processor without AVX2')
    rng = np.random.default_rng(3)

    def is_used(size, inputs, outputs):
        images = np.zeros((1, size, size, inputs), np.float32)
        images[0, 1, 1, 0] = 1
        kernel = rng.standard_normal((3, 3, inputs, outputs), np.float32)
        seen = np.asarray(native.conv(images, kernel, geometry(PADS)))[0, :3, :3]
        mirrored = kernel[::-1, ::-1, 0]
        np.testing.assert_allclose(seen, mirrored, rtol=0, atol=1e-6)
        return not np.array_equal(seen, mirrored)

    assert is_used(8, 32, 22)
    assert is_used(8, 16, 11) == WIDE
    assert not is_used(6, 64, 64)
    assert not is_used(8, 15, 64)
    assert not is_used(8, 64, 10)


def test_gradients_of_kernels_use_it_where_it_pays(extension):
    """A gradient of one pixel shows the images."""
    if not NARROW:
        pytest.skip('a processor without AVX2')
    rng = np.random.default_rng(7)

    def is_used(size, inputs, outputs, count=1):
        images = rng.standard_normal((count, size, size, inputs), np.float32)
        kernel = np.zeros((3, 3, inputs, outputs), np.float32)
        grad = np.zeros((count, size, size, outputs), np.float32)
        grad[0, 1, 1, 0] = 1
        seen = jax.vjp(lambda w: native.conv(images, w, geometry(PADS)), kernel)[1](grad)[0]
        expected = np.pad(images[0], ((0, 1), (0, 1), (0, 0)))[:3, :3]
        np.testing.assert_allclose(seen[..., 0], expected, rtol=0, atol=1e-5)
        return not np.array_equal(seen[..., 0], expected)

    assert is_used(8, 40, 40)
    assert is_used(4, 40, 40, count=4)
    assert not is_used(6, 40, 40)
    assert not is_used(8, 40, 39)
    assert not is_used(4, 40, 40, count=3)
    assert not is_used(2, 40, 40, count=16)


def test_gradients_of_images_use_it_in_batches(extension):
    """A gradient of one pixel shows the kernel."""
    if not NARROW:
        pytest.skip('a processor without AVX2')
    kernel = np.random.default_rng(8).standard_normal((3, 3, 32, 32), np.float32)

    def is_used(count):
        images = np.zeros((count, 8, 8, 32), np.float32)
        grad = images.copy()
        grad[0, 1, 1, 0] = 1
        seen = jax.vjp(lambda x: native.conv(x, kernel, geometry(PADS)), images)[1](grad)[0]
        np.testing.assert_allclose(seen[0, :3, :3], kernel[..., 0], rtol=0, atol=1e-5)
        return not np.array_equal(seen[0, :3, :3], kernel[..., 0])

    assert is_used(7)
    assert not is_used(6)


def test_avx2_on_a_processor_with_more(extension):
    if not WIDE:
        pytest.skip('a processor without AVX-512, whose tests are with AVX2')
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-n', '0', '-q', __file__, '-k', 'not avx2'],
        env=os.environ | {'ONEDNN_MAX_CPU_ISA': 'AVX2'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('activation', ['', 'relu', 'relu6'])
@pytest.mark.parametrize('adds', [False, True])
def test_activations_and_sums_in_inference(extension, activation, adds):
    rng = np.random.default_rng(4)
    images, kernel = integers(rng, 3, 9, 11, 18), integers(rng, 3, 3, 18, 37) / 1024
    factor, bias = 2.0 ** rng.integers(-2, 3, 37), rng.integers(-4, 5, 37)
    added = rng.integers(-4, 5, (3, 9, 11, 37)) if adds else None
    scale = [jnp.asarray(x, jnp.float32) for x in (factor, bias)]
    plus = jnp.asarray(added, jnp.float32) if adds else None

    @jax.jit
    def ours(images):
        return native.inference_conv(images, kernel, *scale, plus, activation, geometry(PADS))

    expected = in_float64(images, kernel, PADS) * factor + bias + (added if adds else 0)
    low, high = {'': (-np.inf, np.inf), 'relu': (0, np.inf), 'relu6': (0, 6)}[activation]
    np.testing.assert_array_equal(ours(images), np.clip(expected, low, high))
    images[1, 4, 4, 0] = np.nan
    broken = np.isnan(ours(images)).all(-1)
    assert broken[1, 3:6, 3:6].all()
    assert not broken[[0, 2]].any()


def test_what_is_not_finite_is_so_by_definition(extension):
    rng = np.random.default_rng(5)
    images = rng.standard_normal((2, 9, 9, 20), np.float32)
    kernel = rng.standard_normal((3, 3, 20, 24), np.float32)
    images[0, 0, 0, 3], images[1, 5, 4, 7] = np.inf, -np.inf
    out = np.asarray(native.conv(images, kernel, geometry(PADS)))
    with np.errstate(invalid='ignore'):
        finite = np.isfinite(in_float64(images, kernel, PADS))
    np.testing.assert_array_equal(np.isfinite(out), finite)
    assert 0 < (~finite).sum() < out.size / 4


DIGESTS = """
import hashlib
import jax
import numpy as np
from cls.nn.cpu import native
from cls.onednn import load
assert load.load()
kernel = np.random.default_rng(1).standard_normal((3, 3, 40, 72), np.float32)
every = native.Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
for size in (4, 6, 7, 13):
    images = np.random.default_rng(0).standard_normal((20, size, size, 40), np.float32)
    together = np.asarray(native.conv(images, kernel, every))[13:14]
    alone = np.asarray(native.conv(images[13:14], kernel, every))
    grad = np.random.default_rng(2).standard_normal((20, size, size, 72), np.float32)
    of_kernel = jax.vjp(lambda w: native.conv(images, w, every), kernel)[1](grad)[0]
    results = together, alone, np.asarray(of_kernel)
    print(*(hashlib.sha256(result.tobytes()).hexdigest() for result in results))
"""


def test_an_image_has_one_result(extension):
    """In any batch and with any number of threads, to the bit; and so has a kernel's gradient."""
    digests = set()
    for threads in ('1', '3'):
        done = subprocess.run(
            [sys.executable, '-c', DIGESTS],
            env=os.environ | {'OMP_NUM_THREADS': threads},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.update(done.stdout.splitlines())
    assert len(digests) == 4  # of the sizes
    assert all(together == alone for together, alone, _ in map(str.split, digests))
