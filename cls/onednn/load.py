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
    if not _loaded:
        path = build.target()
        try:
            library = build.installed(build.PACKAGES[0], build.LIBRARY)
            if library is None or not path.exists():
                return ''
            if not build.is_whole(path):
                log.warning(
                    'the extension %s is damaged, XLA computes: run cls build-onednn again.', path
                )
                return ''
            _loaded.append((_registered(str(library), str(path)), str(path)))
        except (OSError, AttributeError) as error:
            log.warning('the extension %s cannot be loaded, XLA computes: %s.', path, error)
            return ''
    native.enable()
    return _loaded[0][0]


def registered() -> str:
    """Returns the file of the extension that is registered in this process, '' if none is."""
    return _loaded[0][1] if _loaded else ''


_loaded: list[tuple[str, str]] = []  # version of oneDNN and file; a process registers only one


def _registered(library: str, path: str) -> str:
    """Registers the functions of the extension; returns the version of oneDNN."""
    # The threads of OpenMP sleep between convolutions: XLA's own need the cores.
    os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    extension = ctypes.CDLL(path)
    for name in FUNCTIONS:
        capsule = jax.ffi.pycapsule(getattr(extension, name))
        jax.ffi.register_ffi_target(name, capsule, platform='cpu')
    extension.cls_onednn_version.restype = ctypes.c_char_p
    return extension.cls_onednn_version().decode()
