"""The tensors of a .safetensors file."""

import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from cls.errors import UserError
from cls.weights.unpickle import DTYPES


def is_safetensors(mapped: mmap.mmap) -> bool:
    """Returns whether the file starts with the length of a header and its opening brace."""
    return len(mapped) > 8 and mapped[8:9] == b'{' and not any(mapped[5:8])


def load_safetensors(path: Path, mapped: mmap.mmap) -> dict[str, np.ndarray]:
    """Returns views of the map, after the safetensors library has checked the header."""
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            names = list(file.keys())
    except safetensors.SafetensorError as error:
        raise UserError(f'damaged safetensors file ({error}); fetch or save it again') from None
    (header_length,) = struct.unpack('<Q', mapped[:8])
    header = json.loads(mapped[8 : 8 + header_length])
    data = memoryview(mapped)[8 + header_length :]
    return {name: _tensor(name, header[name], data) for name in names}


def _tensor(name: str, entry: Mapping[str, Any], data: memoryview) -> np.ndarray:
    dtypes = {'BF16': 'bfloat16', 'F8_E4M3': 'float8_e4m3fn', 'F8_E5M2': 'float8_e5m2'}
    kinds = {'F': 'float', 'I': 'int', 'U': 'uint', 'C': 'complex'}
    code = entry['dtype']
    dtype = dtypes.get(code, 'bool' if code == 'BOOL' else kinds.get(code[0], '') + code[1:])
    if dtype not in DTYPES:
        raise UserError(f'tensor {name} has the unsupported type {code}; save it as F32')
    start, stop = entry['data_offsets']
    return np.frombuffer(data[start:stop], DTYPES[dtype]).reshape(entry['shape'])
