#!/usr/bin/env bash
# webdataset 1.0.2: a shard whose header is cut or has a wrong bit is read as a shorter one, without an error.
#
# One would guess that a reader of tar files notices damage: each member has a header with a checksum, and
# the archive ends with blocks of zeros. Python's tarfile, with which webdataset reads, takes any header
# after the first that is incomplete or has a wrong checksum for the end of the archive. A shard of 100
# samples that was cut in the header of the 21st, at the end of the 20th, or that has one wrong bit there,
# gives 20 samples in each epoch; only a cut inside of a member's data raises an error. With the small
# members here a fifth of all positions of a cut is silent.
# GNU tar reports a wrong checksum and an incomplete header ("Skipping to next header", "Unexpected EOF").
# Hurt: training and evaluation on shards from an interrupted or faulty download or copy, with fewer
# examples than counted and accuracies of a part of the test set.
# Source: https://github.com/python/cpython/issues/120740 ("tarfile silently stops/skips on bad member
# header", open since June 2024); webdataset/tariterators.py opens each shard with tarfile's mode 'r|*'.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check webdataset==1.0.2
cat > "$folder/shards.py" <<'END'
import io
import platform
import sys
import tarfile

import webdataset

SAMPLES, LAST = 100, 20
file = f'{sys.argv[1]}/shard-000000.tar'
with webdataset.TarWriter(file) as writer:
    for i in range(SAMPLES):
        writer.write({'__key__': f'{i:04}', 'cls': i, 'txt': 600 * 'x'})
with open(file, 'rb') as opened:
    whole = opened.read()
with tarfile.open(file) as tar:
    members = tar.getmembers()
header = members[2 * LAST].offset  # of the first member of a sample


def samples(content):
    """Returns the number of samples that a shard gives, or the error."""
    with open(file, 'wb') as opened:
        opened.write(content)
    try:
        return sum(1 for _ in webdataset.WebDataset([file], shardshuffle=False, empty_check=False))
    except Exception as error:
        return type(error).__name__


flipped = bytearray(whole)
flipped[header + 150] ^= 1
shards = {
    'whole': whole,
    'cut at a header': whole[:header],
    'cut in a header': whole[: header + 100],
    'one wrong bit in a header': bytes(flipped),
    'cut in the data of a member': whole[: members[2 * LAST + 1].offset_data + 100],
}
found = {name: samples(content) for name, content in shards.items()}
print(f'webdataset {webdataset.__version__}, Python {platform.python_version()}')
for name, count in found.items():
    print(f'{name}: {count}')
cuts = range(512, members[-1].offset, 211)
silent = sum(isinstance(samples(whole[:cut]), int) for cut in cuts)
print(f'of {len(cuts)} positions of a cut, {silent} give fewer samples and no error')
same = list(found.values()) == [SAMPLES, LAST, LAST, LAST, 'ReadError'] and silent > len(cuts) / 10
print('Cut shards are read without an error.' if same else 'The behavior has changed.')
sys.exit(not same)
END
"$folder/env/bin/python" "$folder/shards.py" "$folder"
