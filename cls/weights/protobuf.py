"""The wire format of protocol buffers, without generated classes.

Source: https://protobuf.dev/programming-guides/encoding. Nothing is copied or reserved that is not
in the buffer: fields of bytes are views.
"""

import struct
from collections.abc import Iterator

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 5_000_000  # the most fields of one message


def varint(data: memoryview, start: int) -> tuple[int, int]:
    """Returns (the number, the position after it). Raises ValueError at the end of the data."""
    value = 0
    for shift in range(0, 70, 7):
        if start >= len(data):
            break
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), start
    raise ValueError('a number that does not end')


def fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yields (number, wire type, value) of the fields of a message; a view for bytes.

    Raises ValueError for anything that is not a message.
    """
    position, count = 0, 0
    while position < len(data):
        count += 1
        if count > MAX_FIELDS:
            raise ValueError(f'a message of more than {MAX_FIELDS:,} fields')
        key, position = varint(data, position)
        number, kind = key >> 3, key & 7
        if not number:
            raise ValueError('a field with the number 0')
        if kind == VARINT:
            value, position = varint(data, position)
            yield number, kind, value
            continue
        size, position = (
            varint(data, position)
            if kind == BYTES
            else ({FIXED64: 8, FIXED32: 4}.get(kind, -1), position)
        )
        if size < 0 or position + size > len(data):
            raise ValueError('a field that is not in the data')
        content = data[position : position + size]
        position += size
        if kind == BYTES:
            yield number, kind, content
        else:
            yield number, kind, int.from_bytes(content, 'little')


def messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yields the bytes of the fields with a number."""
    for number, kind, value in fields(data):
        if number == wanted and kind == BYTES and isinstance(value, memoryview):
            yield value


def number(data: memoryview, wanted: int, default: int = 0) -> int:
    """Returns the last integer with a field's number, the default if there is none."""
    for key, kind, value in fields(data):
        if key == wanted and kind != BYTES and isinstance(value, int):
            default = value
    return default


def text(data: memoryview, wanted: int) -> str:
    """Returns the last text with a field's number, '' if there is none."""
    found = [bytes(value) for value in messages(data, wanted)]
    return found[-1].decode() if found else ''


def integers(data: memoryview, wanted: int) -> list[int]:
    """Returns the signed integers of a repeated field, packed or not."""
    values = []
    for key, kind, value in fields(data):
        if key != wanted:
            continue
        if isinstance(value, memoryview):
            position = 0
            while position < len(value):
                item, position = varint(value, position)
                values.append(item)
        elif kind == VARINT:
            values.append(value)
    return [value - 2**64 if value >= 2**63 else value for value in values]


def floats(data: memoryview, wanted: int, dtype: str = '<f4') -> np.ndarray:
    """Returns the numbers of a repeated field of a fixed size: a view if they are in one piece."""
    width = np.dtype(dtype).itemsize
    pieces, single = [], []
    for key, kind, value in fields(data):
        if key != wanted:
            continue
        if isinstance(value, memoryview):
            pieces.append(np.frombuffer(value, dtype))
        elif kind in (FIXED32, FIXED64):
            single.append(value)
    if single:
        code = {4: 'I', 8: 'Q'}[width]
        packed = struct.pack(f'<{len(single)}{code}', *single)
        pieces.append(np.frombuffer(packed, dtype))
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype)
