"""Headers and containers of image files: size, orientation and completeness.

No pixels are decoded, and the memory used is at most the size of the file.
"""

import dataclasses
import struct
import zlib
from typing import Any

MAX_PIXELS_FIELD = 'data.max_pixels'  # the field of the config with the limit of pixels
_PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)  # starts of frames: baseline, extended, progressive
# Sampling factors, horizontal << 4 | vertical, of luma and both chromas: those that simplejpeg
# supports.
_SAMPLINGS = tuple(bytes((luma, 0x11, 0x11)) for luma in (0x11, 0x21, 0x12, 0x22, 0x41, 0x14))
_PNG = b'\x89PNG\r\n\x1a\n'
_CRITICAL = (b'IHDR', b'PLTE', b'IDAT', b'IEND')  # the chunks that a PNG's pixels depend on


class BrokenImage(ValueError):
    """A file that is not an image, is damaged, or exceeds a limit.

    Attributes:
      field: the field of the config with the limit or the number that the file does not have, as
        'data.max_pixels'; '' for none. The text leaves it out, as many commands have no config;
        `cls.data.broken.described` adds it.
    """

    def __init__(self, why: str, field: str = '') -> None:
        super().__init__(why)
        self.field = field


def check_pixels(height: int, width: int, most: int) -> None:
    """Raises BrokenImage for an image of more than `most` pixels."""
    if height * width > most:
        raise too_large(f'{width} x {height}', most)


def too_large(size: str, most: int) -> BrokenImage:
    """Returns the error of an image with more than `most` pixels; `size` is their number."""
    return BrokenImage(f'{size} pixels, more than {most:,}', MAX_PIXELS_FIELD)


# ------------------------------------------------------------------------------------------------
# JPEG
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Header:
    """The fields of a JPEG's header that decoding depends on."""

    height: int
    width: int
    components: int  # 1 (gray) or 3
    height_at: int  # offset of the height in the file
    rows_in_order: bool  # a single scan has all rows from the first to the last, without restarts
    orientation: int  # EXIF's, 1 (upright) to 8
    length: int  # bytes before the entropy code


def read_header(encoded: bytes) -> Header | None:
    """Reads the segments up to the first scan; returns None for unusual kinds of JPEG.

    The usual kinds have one or three components of 8 bits, Huffman coding (ITU-T T.81), and chroma
    stored for 1, 2 or 4 pixels.
    """
    if encoded[:2] != b'\xff\xd8':
        return None
    frame, restarts, orientation = None, False, 1
    at = 2
    try:
        while True:
            mark, kind, length = struct.unpack_from('>BBH', encoded, at)
            if mark != 0xFF or kind == 0xFF:
                return None
            if kind in _FRAMES:
                bits, height, width, components = struct.unpack_from('>BHHB', encoded, at + 4)
                if bits != 8 or components not in (1, 3) or not height or not width:
                    return None
                if components == 3 and encoded[at + 11 : at + 18 : 3] not in _SAMPLINGS:
                    return None
                frame = kind, height, width, components, at + 5
            elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
                return None  # lossless or arithmetic
            elif kind == 0xDD:
                restarts = struct.unpack_from('>H', encoded, at + 4)[0] > 0
            elif kind == 0xE1 and encoded[at + 4 : at + 10] == b'Exif\0\0':
                orientation = exif_orientation(encoded[at + 10 : at + 2 + length])
            elif kind == 0xDA:
                if frame is None:
                    return None
                kind, height, width, components, height_at = frame
                single_scan = (
                    kind != _PROGRESSIVE and encoded[at + 4] == components and not restarts
                )
                end = at + 2 + length
                return Header(height, width, components, height_at, single_scan, orientation, end)
            at += 2 + length
    except (struct.error, IndexError):  # the file ends before the first scan
        return None


def exif_orientation(tiff: bytes) -> int:
    """Returns the orientation, 1 (upright) to 8, of EXIF data; 1 if they have none.

    EXIF data are a TIFF header and the directories after it.
    """
    order = {b'II': '<', b'MM': '>'}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + 'I', tiff, 4)
        (count,) = struct.unpack_from(order + 'H', tiff, directory)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(
                order + 'HHIH', tiff, directory + 2 + 12 * entry
            )
            if tag == 0x0112 and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


# ------------------------------------------------------------------------------------------------
# PNG and WebP
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Still:
    """A complete PNG or WebP file of one opaque image.

    Attributes:
      height: Pixels.
      width: Pixels.
      gray: Whether the image has one channel.
      orientation: EXIF's, 1 (upright) to 8.
      content: The file without its parts that confuse decoders: of a PNG only the chunks of its
        pixels, without metadata and transparency; of a WebP no bytes after its end.
    """

    height: int
    width: int
    gray: bool
    orientation: int
    content: bytes


def read_png(encoded: bytes) -> Still | None:
    """Checks the chunks of a PNG; returns None for other files and for animations.

    Raises BrokenImage for a file that ends early and for a wrong checksum.
    """
    if encoded[:8] != _PNG:
        return None
    view, at, orientation = memoryview(encoded), 8, 1
    kept: list[Any] = [_PNG]
    kind = b''
    while kind != b'IEND':
        if at + 12 > len(encoded):
            raise BrokenImage('the file ends early')
        length, kind = struct.unpack_from('>I4s', encoded, at)
        end = at + 12 + length
        if end > len(encoded):
            raise BrokenImage('the file ends early')
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from('>I', encoded, end - 4)[0]:
            raise BrokenImage(f'wrong checksum of its part {kind.decode("latin-1")!r}')
        if kind == b'acTL':
            return None
        if kind == b'eXIf':
            orientation = exif_orientation(encoded[at + 8 : end - 4])
        if kind in _CRITICAL:
            kept.append(view[at:end])
        at = end
    if len(kept[1]) != 25 or kept[1][4:8] != b'IHDR':
        raise BrokenImage('it does not begin with a header')
    width, height, _, colors = struct.unpack_from('>IIBB', kept[1], 8)
    return Still(height, width, colors in (0, 4), orientation, b''.join(kept))


def webp_size(encoded: bytes) -> tuple[int, int] | None:
    """Returns the (height, width) that a WebP file declares; None for other files.

    Raises BrokenImage for a file that ends early.
    """
    if encoded[:4] != b'RIFF' or encoded[8:12] != b'WEBP':
        return None
    return _webp_chunk_size(encoded, 12)


def _webp_chunk_size(encoded: bytes, at: int) -> tuple[int, int]:
    """Returns the (height, width) that a chunk VP8X, VP8L or VP8 declares."""
    kind, data = encoded[at : at + 4], encoded[at + 8 : at + 18]
    if len(data) < 10:
        raise BrokenImage('the file ends early')
    if kind == b'VP8X':
        width, height = (1 + int.from_bytes(data[i : i + 3], 'little') for i in (4, 7))
    elif kind == b'VP8L':
        bits = int.from_bytes(data[1:5], 'little')
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(data[i : i + 2], 'little') & 0x3FFF for i in (6, 8))
    return height, width


def read_webp(encoded: bytes) -> Still | None:
    """Checks the chunks of a WebP; returns None for other files, animations and alpha channels.

    Raises BrokenImage for a file that ends early or whose sizes contradict each other.
    """
    size = webp_size(encoded)
    if size is None:
        return None
    riff_end = 8 + int.from_bytes(encoded[4:8], 'little')
    at, orientation, sizes = 12, 1, set()
    while at + 8 <= riff_end <= len(encoded):
        kind, length = struct.unpack_from('<4sI', encoded, at)
        data = at + 8
        if data + length > riff_end:
            raise BrokenImage('the file ends early')
        if kind in (b'ANIM', b'ALPH') or (kind == b'VP8L' and encoded[data + 4] & 0x10):
            return None
        if kind == b'EXIF':
            orientation = exif_orientation(encoded[data : data + length].removeprefix(b'Exif\0\0'))
        if kind in (b'VP8 ', b'VP8L'):
            sizes.add(_webp_chunk_size(encoded, at))
        at = data + length + length % 2
    if riff_end > len(encoded):
        raise BrokenImage('the file ends early')
    if sizes != {size}:
        raise BrokenImage('its parts contradict each other')
    return Still(*size, False, orientation, encoded[:riff_end])
