"""Checkpoint formats that cannot be read, by first bytes or suffix, with advice for each."""

from cls.weights.unpickle import ADVICE

_NPZ = (
    'numpy.savez("weights.npz", **{name: array, ...}), names as MODULE/kernel and axes as they '
    'are, and import that'
)
KERAS = (
    'a Keras file, which is not read; in Keras, numpy.savez("weights.npz", **{w.path: w.numpy() '
    'for w in model.weights}), and import that'
)
KERAS_ARCHIVE = {'config.json', 'metadata.json', 'model.weights.h5'}
_LFS = 'a Git LFS pointer, not the checkpoint itself; fetch it with git lfs pull'
_FLAX = (
    'a Flax msgpack file, which is not read; save the PyTorch weights where it was made, or, after '
    'flax.serialization.msgpack_restore, write its tensors under the names and in the axes of the '
    "reference's state_dict, each through numpy.ascontiguousarray, by safetensors.numpy.save_file, "
    'and import that'
)
_ONNX = (
    'an ONNX file, a program rather than named weights, which is not read; import the checkpoint '
    'that it was exported from'
)
_CAFFE = (
    'a Caffe file, which is not read; in Caffe (or a converter), write the blobs, axes turned to '
    '(height, width, inputs, outputs), by numpy.savez("weights.npz", **{"LAYER/weights": array, '
    '"LAYER/biases": array}), and import that with --bgr'
)
_TENSORFLOW = f'a TensorFlow file, which is not read; in TensorFlow, read its variables and {_NPZ}'
_TFLITE = 'a TensorFlow Lite file, which is not read; import the checkpoint that it was made from'
_PACKED = 'a compressed or tar archive; unpack it, and import the checkpoint in it'
_PICKLE = (
    'not a PyTorch checkpoint but a plain pickle, which is a program, and nothing was run; where '
    f'it was written, {ADVICE}'
)
_NPY = f'a single NumPy array; {_NPZ}'

# First bytes -> description. Protocol buffers of ONNX and Caffe, and msgpack, have no fixed first
# bytes, and are recognized by their suffix.
_STARTS = (
    (b'\x89HDF\r\n\x1a\n', KERAS),
    (b'version https://', _LFS),
    (b'\x93NUMPY', _NPY),
    (b'\x1f\x8b', _PACKED),
    (b'BZh', _PACKED),
    (b'\xfd7zXZ', _PACKED),
    (b'7z\xbc\xaf', _PACKED),
    (b'\x28\xb5\x2f\xfd', _PACKED),
    (b'Rar!', _PACKED),
)
_SUFFIXES = (
    (('.h5', '.hdf5', '.keras'), KERAS),
    (('.msgpack', '.flax'), _FLAX),
    (('.onnx',), _ONNX),
    (('.caffemodel', '.prototxt'), _CAFFE),
    (('.tflite',), _TFLITE),
    (('.pb', '.ckpt.index', '.ckpt.meta', '.index', '.meta'), _TENSORFLOW),
    (('.tgz', '.gz', '.xz', '.bz2', '.zst', '.7z', '.rar'), _PACKED),
    (('.pkl', '.pickle', '.pdparams'), _PICKLE),
)


def advice(start: bytes, name: str) -> str:
    """Returns the format of an unreadable file, with advice; '' for an unknown format.

    Args:
      start: the first 512 bytes of the file.
      name: the name of the file.
    """
    if start[4:8] == b'TFL3':
        return _TFLITE
    if start[257:262] == b'ustar':
        return _PACKED
    by_content = next((text for first, text in _STARTS if start.startswith(first)), '')
    if by_content:
        return by_content
    by_name = next((text for ends, text in _SUFFIXES if name.lower().endswith(ends)), '')
    if '.ckpt.data-' in name or '.data-0000' in name:
        return _TENSORFLOW
    if by_name:
        return by_name
    return _PICKLE if start[:1] == b'\x80' and start[1:2] in b'\x02\x03\x04\x05' else ''
