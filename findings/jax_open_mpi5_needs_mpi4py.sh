#!/usr/bin/env bash
# jax 0.12.0.1: under Open MPI 5, jax.distributed.initialize(address, count, index) fails without mpi4py.
#
# One would guess that a program that names its coordinator, its processes and its own index asks nothing
# of the launcher, and so it was: JAX did not notice Open MPI 5, whose mpirun no longer sets
# OMPI_MCA_orte_hnp_uri. From 0.11.2 on the variables OMPI_COMM_WORLD_* are enough. Without the fourth
# argument, local_device_ids, JAX then asks for the index of the process on its host, to choose its GPUs
# (on machines without GPUs too), and raises RuntimeError if mpi4py is not installed. A patch release
# (0.11.1 to 0.11.2) made the difference. cluster_detection_method='deactivate' works as before.
# Hurt: programs with arguments of their own that mpirun starts on a new cluster; a single process that
# inherits these variables from an mpirun above it.
# Source: jax/_src/clusters/ompi_cluster.py and cluster.py (auto_detect_unset_distributed_params) of jax
# 0.12.0.1 (0.11.1 has no mpi4py there); https://github.com/jax-ml/jax/pull/40512.
# Needs Python 3.12 or newer. Open MPI itself is not needed: its variables are set by hand.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/start.py" <<'END'
import os
import socket
import sys

import jax

how, *wanted = sys.argv[1:]
if how != 'no launcher':
    rank = {'SIZE': '1', 'RANK': '0', 'LOCAL_RANK': '0', 'LOCAL_SIZE': '1'}
    os.environ.update({f'OMPI_COMM_WORLD_{name}': value for name, value in rank.items()})
more = {'cluster_detection_method': 'deactivate'} if how == 'deactivate' else {}
if how == 'local_device_ids':
    more = {'local_device_ids': [0]}
with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    address = '127.0.0.1:%d' % taken.getsockname()[1]
try:
    jax.distributed.initialize(address, 1, 0, **more)
    result = f'{jax.process_count()} process'
except RuntimeError as error:
    result = f'RuntimeError: {error}'
print(f'jax {jax.__version__}, {how}: {result}')
sys.exit(not result.startswith(' '.join(wanted)))
END
export JAX_PLATFORMS=cpu
for version in 0.11.1 0.12.0.1; do
  "${PYTHON:-python3}" -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q --disable-pip-version-check \
    "jax==$version" "jaxlib==$version" numpy==2.4.6
done
start() { "$folder/$1/bin/python" "$folder/start.py" "${@:2}"; }
if start 0.11.1 'Open MPI 5' 1 process &&
  start 0.12.0.1 'no launcher' 1 process &&
  start 0.12.0.1 'Open MPI 5' RuntimeError: Open MPI 5 or newer requires mpi4py &&
  start 0.12.0.1 'local_device_ids' 1 process &&
  start 0.12.0.1 'deactivate' 1 process; then
  echo 'Under Open MPI 5, three arguments of four need mpi4py since JAX 0.11.2.'
else
  echo 'The behavior has changed.'
  exit 1
fi
