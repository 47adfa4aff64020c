"""Checkpoint formats that cannot be read, by first bytes or suffix, with advice for each."""

from cls.weights.unpickle import ADVICE

_NPZ = (
    'numpy.savez("weights.npz", **{name: array, ...}), names as MODULE/kernel and axes as they '
    'are, and import that'
)
TENSORNETS = (
    'a file of tensornets, whose arrays are one pickled object, which is not read; import the '
    'weights of TF-Slim, Keras or Caffe that it was converted from'
)
_LFS = 'a Git LFS pointer, not the checkpoint itself; fetch it with git lfs pull'
_ONNX = (
    'an ONNX file, a program rather than named weights, which is not read; import the checkpoint '
    'that it was exported from'
)
_CAFFE = 'the description of a Caffe network, without weights; import its .caffemodel'
_HDF5 = 'not a Keras file, or its beginning is damaged; fetch or save it again'
_TENSORFLOW = (
    'a TensorFlow file without the variables, or a damaged one; import the .index of a checkpoint, '
    'with its .data files next to it'
)
_TFLITE = 'a TensorFlow Lite file, which is not read; import the checkpoint that it was made from'
_PACKED = 'a compressed or tar archive; unpack it, and import the checkpoint in it'
_PICKLE = (
    'not a PyTorch checkpoint but a plain pickle, which is a program, and nothing was run; where '
    f'it was written, {ADVICE}'
)
_NPY = f'a single NumPy array; {_NPZ}'

# First bytes -> description. Protocol buffers, as of ONNX, have no fixed first bytes, and are
# recognized by their suffix.
_STARTS = (
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
    (('.h5', '.hdf5', '.keras'), _HDF5),
    (('.onnx',), _ONNX),
    (('.prototxt',), _CAFFE),
    (('.tflite',), _TFLITE),
    (('.pb', '.ckpt.index', '.ckpt.meta', '.index', '.meta'), _TENSORFLOW),
    (('.tgz', '.gz', '.xz', '.bz2', '.zst', '.7z', '.rar'), _PACKED),
    (('.pkl', '.pickle', '.pdparams'), _PICKLE),
)


def is_tar(start: bytes) -> bool:
    """Returns whether the first bytes of a file are those of a tar archive."""
    return start[257:262] == b'ustar'


def advice(start: bytes, name: str) -> str:
    """Returns the format of an unreadable file, with advice; '' for an unknown format.

    Args:
      start: the first 512 bytes of the file.
      name: the name of the file.
    """
    if start[4:8] == b'TFL3':
        return _TFLITE
    if is_tar(start):
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
