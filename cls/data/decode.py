"""Decoding of images: only the part of a JPEG that a crop needs, and no damaged image unnoticed.

Images are (H, W, C) uint8 with C 1 or 3 and channels in the order RGB; `planes` reads other numbers
of channels. The pixels equal Pillow's to the bit, except for 16-bit gray: Pillow keeps the wrong
eight bits. Pillow decodes all formats; for three of them other decoders are faster or notice more
damage, and return the same pixels:

  JPEG   simplejpeg. All decoders use libjpeg-turbo, which repairs damage and warns of it. Pillow
         and OpenCV discard the warnings.
  PNG    OpenCV, that is libpng, after a check of the checksums. Pillow misses some errors.
  WebP   OpenCV, if the file has a single opaque image.

Most of the time of a JPEG is spent on its entropy code. Neither a smaller scale nor a cropped width
saves any of it; only the rows below a crop can be skipped.
"""

import dataclasses
import io
import re
import struct
import warnings
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from cls.data import planes
from cls.data.headers import (
    BrokenImage,
    Header,
    Still,
    check_pixels,
    read_header,
    read_png,
    read_webp,
    too_large,
    webp_size,
)
from cls.data.spec import DataSpec

# The pipeline has its own threads, one image in each: OpenCV's threads would compete with them.
cv2.setNumThreads(1)
# The caller of `decode` reports a broken image by its name; OpenCV does not know the name.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# Pillow warns at its default limit; `Rules.check` raises an error there.
warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)

# File name suffixes of the formats that `decode` reads; the format of a file is found from its
# content.
SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.jif', '.mpo'),
    *('.png', '.apng', '.webp', '.avif', '.gif'),
    *('.bmp', '.dib', '.tif', '.tiff', '.ras', '.sr'),
    *('.ppm', '.pgm', '.pbm', '.pnm'),
    *('.jp2', '.j2k', '.j2c', '.jpc', '.jpf', '.jpx'),
)
# Pillow's names of these formats. It reads more, among them PostScript, by running Ghostscript.
_FORMATS = (
    *('JPEG', 'PNG', 'WEBP', 'AVIF', 'GIF'),
    *('BMP', 'DIB', 'TIFF', 'SUN', 'PPM', 'JPEG2000'),
)
MAX_PIXELS = 89_478_485  # Pillow's Image.MAX_IMAGE_PIXELS, a quarter of 1 GiB in RGB

# libjpeg-turbo's warnings, of damage that it repaired; its errors are of files it cannot decode.
_REPAIRED = re.compile(
    'Corrupt JPEG data|Premature end of JPEG file|Inconsistent progression|Invalid SOS parameters'
    '|Unknown Adobe color transform|Warning: unknown JFIF revision|Application transferred'
)
# The first warning of a JPEG whose header was changed to fewer rows, if these rows are intact: only
# then does the decoder look for the end of the image, and find it after further bytes.
_SHORTENED = re.compile(r'Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9')

# 8 orientations of EXIF: (transpose, flip rows, flip columns), in this order.
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

Box = tuple[float, float, float, float]  # top, left, height, width in pixels


@dataclasses.dataclass(frozen=True)
class Rules:
    """Options of decoding.

    Attributes:
      exif: Whether an image is turned as the orientation in its EXIF data says. The decoders of
        TensorFlow and Pillow ignore it; the published models were trained with those.
      max_pixels: Height times width of the largest image that is decoded.
      repair: Whether a damaged JPEG is decoded as far as possible, with the rest gray.
      verify: Whether a rough crop also decodes the rows below it, to check that the file is intact:
        most damage changes the number of bits, which shows only at the end of the file.
    """

    exif: bool = False
    max_pixels: int = MAX_PIXELS
    repair: bool = False
    verify: bool = False

    def check(self, height: int, width: int) -> None:
        """Raises BrokenImage if an image exceeds the limit."""
        check_pixels(height, width, self.max_pixels)


RULES = Rules()


def rules(data: DataSpec, exif: bool = False) -> Rules:
    """Returns the rules of a run's data."""
    return Rules(exif, data.max_pixels, data.broken_images == 'take')


class DamagedImage(BrokenImage):
    """A JPEG that can only be decoded with repairs or with gray in place of missing parts."""


def decode(encoded: bytes, channels: int, rules: Rules = RULES) -> np.ndarray:
    """Decodes an image of one of `SUFFIXES` to (H, W, channels) uint8.

    For 1 or 3 channels gray, palette, CMYK and 16-bit images are converted; transparency and
    color profiles are dropped, and an animation yields its first frame. For other numbers, a file
    must have as many, see `planes`.

    Raises:
      DamagedImage: for a damaged JPEG, unless the rules repair it.
      BrokenImage: for a file that is not an image, is damaged otherwise, or exceeds a limit.
    """
    image = picture(encoded, channels, rules)
    return image.region(0, 0, *image.size, to=image.size)[0]


def _pillow(encoded: bytes, channels: int, rules: Rules) -> np.ndarray:
    """Decodes with Pillow; the size is checked when only the header has been read."""
    if size := webp_size(encoded):  # Pillow allocates the pixels of these in `open`
        rules.check(*size)
    if rules.max_pixels > MAX_PIXELS and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, rules.max_pixels)
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            rules.check(image.height, image.width)
            image.load()
            pixels = _pixels(image, channels)
            return _turned(pixels, _orientation(image) if rules.exif else 1)
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage('not an image') from error
    except Image.DecompressionBombError as error:
        # Pillow's own limit is twice its constant.
        count = int(re.findall(r'\d+', str(error))[0])
        raise too_large(f'{count:,}', rules.max_pixels) from error
    except Exception as error:  # its parsers raise all kinds for damaged files
        raise BrokenImage(f'not an image, or damaged ({error})') from error


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Returns (H, W, channels) uint8; the upper eight bits of 16-bit values."""
    image.info.pop('transparency', None)  # Pillow would warn that it is lost
    wide = image.mode.startswith('I;16') or (image.mode == 'I' and image.format == 'PPM')
    if image.mode in ('I', 'F') and not wide:
        raise BrokenImage('its pixels are numbers of 32 bits: expected 8 or 16 bits')
    if wide:
        # TIFF's 12 bits are not scaled to 16.
        tags: Any = getattr(image, 'tag_v2', {})  # of a TIFF
        bits = tags.get(258, (16,))[0]
        image = Image.fromarray((np.asarray(image) >> bits - 8).astype(np.uint8))
    mode = 'RGB' if channels == 3 else 'L'
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], channels)


def of_pillow(image: Image.Image, channels: int, rules: Rules = RULES) -> np.ndarray:
    """Returns the pixels of an image of Pillow, (H, W, channels) uint8, as `decode` of its file.

    Raises BrokenImage for pixels of 32 bits, for a damaged file that Pillow has not read yet, and
    for an image above the limit of pixels.
    """
    rules.check(image.height, image.width)
    try:
        image = image.copy()  # `_pixels` changes it
    except (OSError, SyntaxError, ValueError) as error:
        raise BrokenImage(f'not an image, or damaged ({error})') from error
    return _turned(_pixels(image, channels), _orientation(image) if rules.exif else 1)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # metadata may be damaged, pixels are not
        return 1


def orientation_of(encoded: bytes) -> int:
    """Returns the orientation in the EXIF data of a PNG, 1 for other files."""
    still = read_png(encoded)
    return still.orientation if still else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns (H, W, C) turned by an orientation of EXIF."""
    if orientation not in _TURNS:
        return pixels
    transpose, rows, columns = _TURNS[orientation]
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def _still(still: Still, channels: int, rules: Rules) -> np.ndarray | None:
    """Decodes a PNG or WebP with OpenCV; returns None if only Pillow can decode it."""
    rules.check(still.height, still.width)
    if channels == 1 and not still.gray:
        return None
    mode = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    try:
        pixels = cv2.imdecode(
            np.frombuffer(still.content, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:  # an image with a side of more than 2**20 pixels
        return None
    if pixels is None:
        raise BrokenImage('damaged')
    pixels = pixels.reshape(still.height, still.width, channels)
    return _turned(pixels, still.orientation if rules.exif else 1)


# ------------------------------------------------------------------------------------------------
# Pictures: the inputs of crops
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A decoded picture, with pixels (H, W, C) uint8."""

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
        """Returns the region's pixels; see Jpeg.region. `to` and `roughly` have no effect."""
        del to, roughly
        return self.pixels[top : top + height, left : left + width], (0, 0, height, width)


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """A picture that is decoded on request; so far only its header has been read.

    Args:
      encoded: The content of the file.
      channels: The number of channels to decode to, 1 (for gray images only) or 3.
      header: The header of the file.
      rules: The options of decoding.
    """

    encoded: bytes
    channels: int
    header: Header
    rules: Rules = RULES

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
        """Decodes a region, at full scale or at a smaller scale with at least `to` pixels.

        At full scale the pixels are those of the whole image, to the bit. If the region has twice
        (4, 8 times) the pixels of `to` in height and width, every 8x8 block is decoded to 4x4
        (2x2, 1x1) pixels from its lowest frequencies. Resized to `to` afterwards, ImageNet's
        photographs differ on average by 2 to 4 levels from those decoded in full and resized by
        Pillow if the decoded region has the size `to` already, and by 1 level if it has twice that.

        `roughly` repeats colors that are stored for 2x2 pixels instead of interpolating them, and
        rounds cosines more: at full scale photographs differ by 1 to 3 levels on average. It saves
        a fifth of the time. Rows below the region are then decoded only to verify the file; without
        `roughly` the whole file must be intact.

        Returns:
          (pixels, box): (h, w, channels) uint8, and the box of the region in it. Its edges may be
          fractions of a pixel at the smaller scale.

        Raises BrokenImage, and DamagedImage unless the rules repair it.
        """
        scale = next((n for n in (8, 4, 2) if height >= n * to[0] and width >= n * to[1]), 1)
        image = self._rows(top + height if roughly else self.header.height, scale, roughly)
        first, begin = top // scale, left // scale
        last, end = -(-(top + height) // scale), -(-(left + width) // scale)
        box = top / scale - first, left / scale - begin, height / scale, width / scale
        return image[first:last, begin:end], box

    def _rows(self, bottom: int, scale: int, roughly: bool) -> np.ndarray:
        """Decodes at least the rows above `bottom`.

        A changed header makes the decoder stop early. Chroma that is stored for every other row is
        interpolated between rows, so a few more rows are decoded.
        """
        rows = bottom + 4 * scale
        if (
            rows >= self.header.height
            or self.rules.verify
            or not self.header.rows_in_order
            or self.encoded.rfind(b'\xff\xd9') <= self.header.length  # it ends early
        ):
            return self._decoded(self.encoded, self.header.height, scale, roughly)
        shortened = bytearray(self.encoded)
        struct.pack_into('>H', shortened, self.header.height_at, rows)
        return self._decoded(shortened, rows, scale, roughly)

    def _decoded(
        self, encoded: bytes | bytearray, rows: int, scale: int, roughly: bool
    ) -> np.ndarray:
        import simplejpeg  # machines without it can import this file, and measure steps

        shape = -(-rows // scale), -(-self.header.width // scale), self.channels
        pixels = np.empty(shape, np.uint8)
        least: dict[str, Any] = {'min_height': shape[0], 'min_width': shape[1], 'min_factor': scale}
        try:
            simplejpeg.decode_jpeg(
                encoded,
                'RGB' if self.channels == 3 else 'GRAY',
                fastdct=roughly,
                fastupsample=roughly,
                buffer=pixels,  # filled even if an error is raised
                **(least if scale > 1 else {}),
            )
        except ValueError as error:
            if encoded is not self.encoded and _SHORTENED.fullmatch(str(error)):
                return pixels
            if not _REPAIRED.match(str(error)):
                raise BrokenImage(str(error)) from error
            if not self.rules.repair:
                raise DamagedImage(str(error)) from error
        return pixels


Picture = Decoded | Jpeg


def picture(encoded: bytes, channels: int, rules: Rules = RULES) -> Picture:
    """Returns a picture; the pixels of a usual JPEG are decoded only when a crop asks for them.

    Arguments and errors are those of `decode`.
    """
    if channels not in (1, 3):
        pixels = planes.read(encoded, channels, rules.max_pixels)
        return Decoded(_turned(pixels, orientation_of(encoded) if rules.exif else 1))
    if planes.is_array(encoded):
        return Decoded(planes.converted(planes.read_array(encoded, rules.max_pixels), channels))
    if encoded[:2] == b'\xff\xd8':
        return _jpeg_picture(encoded, channels, rules)
    still = read_png(encoded) or read_webp(encoded)
    pixels = _still(still, channels, rules) if still else None
    return Decoded(_pillow(encoded, channels, rules) if pixels is None else pixels)


def _jpeg_picture(encoded: bytes, channels: int, rules: Rules) -> Picture:
    header = read_header(encoded)
    if header is None or header.components > channels:
        import simplejpeg

        # Pillow converts colors, and simplejpeg reports damage if it supports this kind of JPEG.
        image = Decoded(_pillow(encoded, channels, rules))
        try:
            simplejpeg.decode_jpeg(encoded)
        except ValueError as error:
            if _REPAIRED.match(str(error)) and not rules.repair:
                raise DamagedImage(str(error)) from error
        return image
    rules.check(header.height, header.width)
    lazy = Jpeg(encoded, channels, header, rules)
    if rules.exif and header.orientation != 1:
        pixels, _ = lazy.region(0, 0, *lazy.size, to=lazy.size)
        return Decoded(_turned(pixels, header.orientation))
    return lazy
