"""Decoding images: of a JPEG only what a crop needs.

Images are (H, W, C) uint8 with C 1 or 3, colours in the order RGB. OpenCV decodes everything but
what simplejpeg can leave out. Both have libjpeg-turbo inside and take as long for the same, Pillow
a quarter more. Most of that goes into the entropy code, which neither a smaller scale nor a cropped
width can skip; what can be skipped are the rows below a crop.
"""

import dataclasses
import struct

import cv2
import numpy as np
import simplejpeg

# The pipeline has its own threads, one image in each: OpenCV's would only be in their way.
cv2.setNumThreads(1)
# A broken image is reported by whoever called `decode`, with its name, which OpenCV lacks.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# File name suffixes of the formats that `decode` reads; the content decides which one a file is.
SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo'),
    *('.png', '.apng', '.webp', '.avif', '.gif'),
    *('.bmp', '.dib', '.tif', '.tiff'),
    *('.ppm', '.pgm', '.pbm', '.pnm'),
    *('.jp2', '.j2k', '.j2c', '.jpc', '.jpf', '.jpx'),
)

# Bits of cv2.imdecode's mode. The named constants of reduced colour are of BGR, which excludes RGB.
_COLOURS = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR_RGB}
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)  # starts of frames: baseline, extended, progressive


Box = tuple[float, float, float, float]  # top, left, height, width in pixels


class BrokenImage(ValueError):
    """This is no image, or only a part of one."""


def decode(encoded: bytes, channels: int, *, exif: bool = False) -> np.ndarray:
    """Decodes JPEG, PNG, WebP or BMP to (H, W, channels) uint8; channels is 1 or 3.

    Grey, palette, CMYK and 16-bit images become what is asked for; transparency is dropped. With
    `exif` the image is turned as the orientation in its EXIF data says. TensorFlow's and Pillow's
    decoders, with which the published nets were trained, ignore it.

    Raises BrokenImage, a ValueError, if this is no image or only a part of one.
    """
    image = _imdecode(encoded, channels, 0 if exif else cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise BrokenImage('not an image, or a truncated one')
    return image


def _imdecode(encoded: bytes | bytearray, channels: int, flags: int) -> np.ndarray | None:
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), _COLOURS[channels] | flags)
    except cv2.error as error:  # of an empty or an absurdly large image
        raise BrokenImage('not an image') from error
    return None if image is None else image.reshape(*image.shape[:2], channels)


# ------------------------------------------------------------------------------------------------
# Pictures: what crops are made of
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A picture whose pixels, (H, W, C) uint8, are at hand."""

    pixels: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[:2]

    def region(
        self,
        top: int,
        left: int,
        height: int,
        width: int,
        to: tuple[int, int],
        roughly: bool = False,
    ) -> tuple[np.ndarray, Box]:
        """Returns the region's pixels; see Jpeg.region. The last two make no difference here."""
        del to, roughly
        return self.pixels[top : top + height, left : left + width], (0, 0, height, width)


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """A picture of which nothing but the header has been read.

    Args:
      encoded: the file.
      channels: to decode to, 1 or 3.
      header: what stands in the file.
    """

    encoded: bytes
    channels: int
    header: 'Header'

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.header.height, self.header.width

    def region(
        self,
        top: int,
        left: int,
        height: int,
        width: int,
        to: tuple[int, int],
        roughly: bool = False,
    ) -> tuple[np.ndarray, Box]:
        """Decodes a region, at full scale or a smaller one that leaves at least `to` of it.

        At full scale the pixels are those of the whole image, to the bit. Where the region has
        twice (4, 8 times) the pixels of `to` in height and width, every 8x8 block is decoded to
        4x4 (2x2, 1x1) pixels from its lowest frequencies. Shrunk to `to` afterwards, ImageNet's
        photographs differ from those decoded in full and shrunk by Pillow by 2 to 4 levels in the
        mean if nothing is left to shrink, and by 1 if a factor of two is.

        Roughly means colours that are stored for 2x2 pixels are repeated, not interpolated, and
        cosines are rounded more: at full scale photographs differ by 1 to 3 levels in the mean. It
        saves a fifth of the time.

        Returns:
          (pixels, box): (h, w, channels) uint8, and where in it the region lies, whose edges need
          not fall on whole pixels of the smaller scale.

        Raises BrokenImage.
        """
        scale = next((n for n in (8, 4, 2) if height >= n * to[0] and width >= n * to[1]), 1)
        image = self._rows(top + height, scale, roughly)
        first, begin = top // scale, left // scale
        last, end = -(-(top + height) // scale), -(-(left + width) // scale)
        box = top / scale - first, left / scale - begin, height / scale, width / scale
        return image[first:last, begin:end], box

    def _rows(self, bottom: int, scale: int, roughly: bool) -> np.ndarray:
        """Decodes at least the rows above `bottom`.

        A decoder stops early if the header says that the image ends there. Chroma that is stored
        for every other row is interpolated between rows, so a few more are decoded than are wanted.
        The end-of-image marker goes too, for the decoder would look for it and complain of what it
        finds on the way.
        """
        rows = bottom + 4 * scale
        end = self.encoded.rfind(b'\xff\xd9') if self.header.rows_in_order else -1
        if rows < self.header.height and end > self.header.length:
            shorter = bytearray(memoryview(self.encoded)[:end])
            struct.pack_into('>H', shorter, self.header.height_at, rows)
            image = self._decoded(shorter, rows, scale, roughly)
            if image is not None:
                return image
        image = self._decoded(self.encoded, self.header.height, scale, roughly)
        if image is None:
            raise BrokenImage('not an image, or a truncated one')
        return image

    def _decoded(
        self, encoded: bytes | bytearray, rows: int, scale: int, roughly: bool
    ) -> np.ndarray | None:
        if roughly and self.channels == 3:
            try:
                return simplejpeg.decode_jpeg(
                    encoded,
                    fastdct=True,
                    fastupsample=True,
                    min_height=-(-rows // scale),
                    min_width=-(-self.header.width // scale),
                    min_factor=scale,
                    strict=encoded is self.encoded,
                )
            except ValueError:  # it does not know all that OpenCV does
                pass
        return _imdecode(encoded, self.channels, _REDUCED[scale] | cv2.IMREAD_IGNORE_ORIENTATION)


Picture = Decoded | Jpeg


def picture(encoded: bytes, channels: int, *, exif: bool = False) -> Picture:
    """Returns a picture of which, if it is a usual JPEG, only the header is read so far.

    Arguments and errors are those of `decode`.
    """
    header = read_header(encoded)
    if header is None or (exif and header.orientation != 1):
        return Decoded(decode(encoded, channels, exif=exif))
    return Jpeg(encoded, channels, header)


# ------------------------------------------------------------------------------------------------
# JPEG's header
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Header:
    """What of a JPEG's header matters here."""

    height: int
    width: int
    height_at: int  # where in the file the height stands
    rows_in_order: bool  # one scan that holds all rows from the first to the last, without restarts
    orientation: int  # EXIF's, 1 (upright) to 8
    length: int  # bytes before the entropy code


def read_header(encoded: bytes) -> Header | None:
    """Reads the segments up to the first scan; None for all but the usual kinds of JPEG.

    The usual ones are grey or of three colours, of 8 bits, in the Huffman code (ITU-T T.81).
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
                whole = kind != _PROGRESSIVE and encoded[at + 4] == components and not restarts
                end = at + 2 + length
                return Header(height, width, height_at, whole, orientation, end)
            at += 2 + length
    except (struct.error, IndexError):  # it ends before the first scan
        return None


def exif_orientation(tiff: bytes) -> int:
    """Returns the orientation, 1 to 8, that EXIF data tell (a TIFF header and what follows it).

    1, which is upright, if they tell none.
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
