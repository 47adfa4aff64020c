#!/usr/bin/env bash
# safetensors 0.8.0: safetensors.numpy writes a transposed array with the values in another order.
#
# One would guess that load(save(x)) is x, or that save refuses an array that is not C-contiguous, as
# safetensors.torch does. 0.7.0 wrote the values in C order. 0.8.0 writes the memory as it is under the
# shape of the view, without an error, so that a transposed or Fortran-ordered array keeps its shape and
# the multiset of its values, but they change places. The docstring asks for "contiguous and dense" arrays;
# a transposed array is dense, and NumPy calls a Fortran-ordered one contiguous too. Both versions
# read a given file in the same way: it is the written file that is wrong.
# Hurt: conversions of weights between frameworks: kernel.transpose(3, 2, 0, 1), from Flax's or Keras's
# layout to PyTorch's, is such an array, and so are many results of scikit-learn and LAPACK. The file
# has the right names, shapes and statistics, and its model gives noise. np.ascontiguousarray helps.
# Source: https://github.com/safetensors/safetensors/issues/825 (open; found by
# https://github.com/MinishLab/model2vec/pull/341); safetensors/numpy.py, _flatten, of 0.8.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 0.7.0 0.8.0; do
  "${PYTHON:-python3}" -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q --disable-pip-version-check safetensors==$version numpy==2.4.6
done
cat > "$folder/arrays.py" <<'END'
import numpy as np

kernel = np.arange(3 * 3 * 4 * 8, dtype=np.float32).reshape(3, 3, 4, 8)  # HWIO, as in Flax
matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
arrays = {
    'matrix': matrix,
    'matrix.T': matrix.T,
    'asfortranarray(matrix)': np.asfortranarray(matrix),
    'kernel.transpose(3, 2, 0, 1)': kernel.transpose(3, 2, 0, 1),
    'ascontiguousarray(matrix.T)': np.ascontiguousarray(matrix.T),
}
END
cat > "$folder/write.py" <<'END'
import sys

import numpy as np
import safetensors
from arrays import arrays
from safetensors.numpy import save_file

print('safetensors', safetensors.__version__, 'numpy', np.__version__)
save_file(arrays, sys.argv[1])
END
cat > "$folder/read.py" <<'END'
import sys

import numpy as np
import safetensors
from arrays import arrays
from safetensors.numpy import load_file

writer = sys.argv[2]
loaded = load_file(sys.argv[1])
print(f'written by {writer}, read by {safetensors.__version__}:')
wrong = set()
for name, array in arrays.items():
    equal = np.array_equal(loaded[name], array)
    if not equal:
        wrong.add(name)
    assert loaded[name].shape == array.shape, name
    assert np.array_equal(np.sort(loaded[name], axis=None), np.sort(array, axis=None)), name
    print(f'  {name}: {"equal" if equal else "other values in the same shape"}')
print('  matrix.T saved:', arrays['matrix.T'].tolist(), 'loaded:', loaded['matrix.T'].tolist())
scrambled = {'matrix.T', 'asfortranarray(matrix)', 'kernel.transpose(3, 2, 0, 1)'}
sys.exit(wrong != (scrambled if writer == '0.8.0' else set()))
END
same=true
for version in 0.7.0 0.8.0; do
  "$folder/$version/bin/python" "$folder/write.py" "$folder/$version.safetensors"
done
for writer in 0.7.0 0.8.0; do
  for reader in 0.7.0 0.8.0; do
    "$folder/$reader/bin/python" "$folder/read.py" "$folder/$writer.safetensors" "$writer" || same=false
  done
done
if $same; then
  echo '0.8.0 writes arrays that are not C-contiguous with their values in another order; 0.7.0 does not.'
else
  echo 'The behavior has changed.'
  exit 1
fi
