"""Registers the extension, if it was built, before the first program is traced."""

import ctypes
import logging
import os

import jax

from cls.nn.cpu import native
from cls.onednn import build

log = logging.getLogger(__name__)

FUNCTIONS = (
    *('cls_conv', 'cls_conv_image_grad', 'cls_conv_kernel_grad'),
    *('cls_conv_inference', 'cls_moments'),
    *('cls_norm_statistics', 'cls_norm_terms', 'cls_norm_running'),
    *('cls_join', 'cls_split', 'cls_random_draw', 'cls_random_fold_in'),
)


def load() -> str:
    """Registers the extension; returns the version of oneDNN, '' if none was built.

    Programs traced from then on call it, see `cls.nn.cpu.native`. A file that cannot be loaded
    is one warning.
    """
    path, library = build.target(), build.installed(build.PACKAGES[0], build.LIBRARY)
    if library is None or not path.exists():
        return ''
    try:
        version = _registered(str(library), str(path))
    except OSError as error:
        log.warning('the extension %s cannot be loaded, XLA computes: %s.', path, error)
        return ''
    native.enable()
    return version


def registered() -> str:
    """Returns the file of the extension that is registered in this process, '' if none is."""
    return str(build.target()) if _versions else ''


_versions: list[str] = []  # of the extension that is registered; a process can register only one


def _registered(library: str, path: str) -> str:
    """Registers the functions of the extension, once; returns the version of oneDNN."""
    if not _versions:
        # The threads of OpenMP sleep between convolutions: XLA's own need the cores.
        os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
        extension = ctypes.CDLL(path)
        for name in FUNCTIONS:
            capsule = jax.ffi.pycapsule(getattr(extension, name))
            jax.ffi.register_ffi_target(name, capsule, platform='cpu')
        extension.cls_onednn_version.restype = ctypes.c_char_p
        _versions.append(extension.cls_onednn_version().decode())
    return _versions[0]
