#!/usr/bin/env bash
# Pillow 13.0.0: Image.resize returns other bytes than Pillow 12.3.0 for tall images.
#
# One would guess that the same 8-bit image, filter and size give the same bytes in every version, or
# differ by one level of rounding. Each version filters one axis, rounds and clips to 8 bits, and then
# filters the other. Pillow 12.3.0 starts with the width (unless the height is over 100 times the width).
# Pillow 13.0.0 starts with the height if h < H and H - h > 2 * (W - w), for an image of W x H and a
# result of w x h. The rule is measured here; the documentation of resize states no order. An upright
# photograph of 375 x 500 squashed to 256 x 256 changes, its landscape twin does not; a telephone's
# 390 x 844 changes even if its aspect ratio is kept. Next to black and white, where the first pass clips
# the overshoot of the bicubic filter, a byte changes by several levels.
# Hurt: comparisons of preprocessed images, digests, golden logits or accuracies across versions of
# Pillow, training with one and serving with another, and reimplementations of Pillow's resize.
# Source: https://github.com/python-pillow/Pillow/pull/9549 ("If height is scaled down significantly more
# than width, resize vertically first", merged in September 2026, between 12.3.0 and 13.0.0), and
# https://github.com/bigcat88/pillow_heif/pull/489 (a test that it changed).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 12.3.0 13.0.0; do
  "${PYTHON:-python3}" -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q --disable-pip-version-check pillow==$version numpy==2.4.6
done
cat > "$folder/images.py" <<'END'
import sys

import numpy as np

rng = np.random.default_rng(0)


def photograph(width, height):
    """Returns an RGB image with the 1/f spectrum of photographs, some of it black or white."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = 1
    noise = np.fft.fft2(rng.normal(size=(3, height, width)), axes=(1, 2)) / frequency
    planes = np.fft.ifft2(noise, axes=(1, 2)).real
    planes /= planes.std(axis=(1, 2), keepdims=True)
    values = np.rint(128 + 70 * (planes[:1] + 0.3 * planes))
    return np.clip(values, 0, 255).astype(np.uint8).transpose(1, 2, 0)


images = {
    'portrait': photograph(375, 500),
    'landscape': photograph(500, 375),
    'telephone': photograph(390, 844),
}
for index in range(400):
    width, height = rng.integers(16, 128, size=2)
    noise = rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    images[f'noise{index}'] = noise
np.savez(sys.argv[1], **images)
END
cat > "$folder/resize.py" <<'END'
import sys

import numpy as np
import PIL
from PIL import Image

sizes = {'portrait': (256, 256), 'landscape': (256, 256), 'telephone': (256, 554)}
rng = np.random.default_rng(1)
results = {}
width_first, height_first, by_rule, count = {}, {}, 0, 0
for name, array in np.load(sys.argv[1]).items():
    image = Image.fromarray(array)
    W, H = image.size
    w, h = sizes.get(name) or map(int, rng.integers(16, 128, size=2))
    if w == W or h == H:
        continue
    bicubic = Image.Resampling.BICUBIC
    result = np.asarray(image.resize((w, h), bicubic))
    by_width = np.asarray(image.resize((w, H), bicubic).resize((w, h), bicubic))
    by_height = np.asarray(image.resize((W, h), bicubic).resize((w, h), bicubic))
    width_first[name] = np.array_equal(result, by_width)
    height_first[name] = np.array_equal(result, by_height)
    rule = h < H and H - h > 2 * (W - w)
    by_rule += height_first[name] if rule else width_first[name]
    count += 1
    if name in sizes:
        results[name] = result
        order = 'width first' if width_first[name] else 'height first' if height_first[name] else '?'
        print(f'Pillow {PIL.__version__}: {name} {W} x {H} to {w} x {h}: {order}')
print(
    f'Pillow {PIL.__version__}: of {count} shapes, {sum(width_first.values())} are made width first,'
    f' {by_rule} by the rule of 13.0.0'
)
results['counts'] = np.array([count, sum(width_first.values()), by_rule])
np.savez(sys.argv[2], **results)
END
cat > "$folder/compare.py" <<'END'
import sys

import numpy as np

old, new = np.load(sys.argv[1]), np.load(sys.argv[2])
largest = {}
for name in ('portrait', 'landscape', 'telephone'):
    difference = np.abs(old[name].astype(int) - new[name])
    largest[name] = difference.max()
    print(
        f'{name}: {(difference > 0).mean():.1%} of the bytes differ,'
        f' {(difference > 1).sum()} by more than one level, at most by {difference.max()}'
    )
count, old_width_first, _ = old['counts']
_, new_width_first, new_by_rule = new['counts']
same = (
    largest['portrait'] > 1
    and largest['telephone'] > 1
    and largest['landscape'] == 0
    and old_width_first == count
    and new_width_first < count
    and new_by_rule == count
)
print(
    '12.3.0 starts with the width; 13.0.0 starts with the height if it shrinks by over twice as many'
    ' pixels as the width.'
    if same
    else 'The behavior has changed.'
)
sys.exit(not same)
END
"$folder/13.0.0/bin/python" "$folder/images.py" "$folder/images.npz"
for version in 12.3.0 13.0.0; do
  "$folder/$version/bin/python" "$folder/resize.py" "$folder/images.npz" "$folder/$version.npz"
done
"$folder/13.0.0/bin/python" "$folder/compare.py" "$folder/12.3.0.npz" "$folder/13.0.0.npz"
