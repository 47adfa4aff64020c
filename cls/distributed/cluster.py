"""Detection of the processes of a run, from flags or from their launcher.

Slurm, Open MPI, Kubernetes and Cloud TPUs describe the processes in the environment or through a
service. JAX reads most of this (jax._src.clusters, the classes of jax.distributed.initialize), so a
run finds the same coordinator as any JAX program. This module adds two things: flags and
environment have to agree, and each process of a host gets its own GPUs.
"""

import dataclasses
import importlib.util
import logging
import os
import zlib
from collections.abc import Mapping

from jax._src import clusters

from cls.errors import UserError

log = logging.getLogger(__name__)

FLAGS = '--coordinator HOST:PORT --process_count N --process_index I'
_PORTS = 2**12  # as in JAX: the ports from 61440 on, by the number of the job


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run, and the index of this one."""

    found: str  # the source: flags, Slurm, ...; for messages
    coordinator: str  # HOST:PORT of process 0
    count: int
    index: int
    local_devices: tuple[int, ...] | None = None  # indices of the host's GPUs; None: all


def find(
    coordinator: str = '', count: int = 0, index: int = -1, timeout: int = 300
) -> Cluster | None:
    """Returns the cluster that this process belongs to; None for a run of one process.

    All three flags together override the environment; fewer of them override or confirm single
    values. A count of 1 is a run of one process.

    Args:
      coordinator: HOST:PORT of process 0; '': not given.
      count: number of processes; 0: not given.
      index: index of this process; -1: not given.
      timeout: seconds to wait until the name of a coordinator can be resolved.

    Raises:
      UserError: the flags are wrong, incomplete or contradict the environment, or the environment
        is incomplete.
    """
    _check(coordinator, count, index)
    if count == 1:
        cluster = _found(timeout) if _on_tpu() else None
        if cluster and cluster.count > 1:
            raise UserError(
                f'--process_count is 1, but {cluster.found} has {cluster.count} processes, and the '
                'chips of a slice start together: run the same command on all of its hosts.'
            )
        return None
    if coordinator and count and index >= 0:
        return Cluster('flags', coordinator, count, index)
    cluster = _found(timeout, coordinator)
    if cluster is None:
        if coordinator or count or index >= 0:
            raise UserError(
                f'nothing describes the other processes: expected {FLAGS}, or a launcher that does '
                '(srun, mpirun, Kubernetes, a TPU slice).'
            )
        return None
    for flag, given, known in (
        ('--process_count', count or cluster.count, cluster.count),
        ('--process_index', index if index >= 0 else cluster.index, cluster.index),
    ):
        if given != known:
            raise UserError(
                f'{flag} is {given}, but {cluster.found} says {known}: leave it out, or give all '
                f'of {FLAGS}. Several TPU VMs of one host each are not a slice.'
            )
    if cluster.count == 1:
        return None
    _check(cluster.coordinator, cluster.count, cluster.index)
    return cluster


def _check(coordinator: str, count: int, index: int) -> None:
    host, _, port = coordinator.rpartition(':')
    if coordinator and not (host and port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f'--coordinator is {coordinator!r}: expected HOST:PORT, as 10.0.0.2:8476.')
    if count < 0 or index < -1 or (count and index >= count):
        raise UserError(
            f'--process_index is {index} and --process_count {count}: expected an index from 0 to '
            'the count less one.'
        )


def _found(timeout: int, coordinator: str = '') -> Cluster | None:
    for find_one in (_open_mpi, _slurm, _tpu, _kubernetes):
        if cluster := find_one(os.environ, coordinator, timeout):
            return cluster
    return None


def _open_mpi(env: Mapping[str, str], coordinator: str, timeout: int) -> Cluster | None:
    if 'OMPI_COMM_WORLD_SIZE' not in env:
        return None
    count, index, local, local_count = (
        _number(env, f'OMPI_COMM_WORLD_{name}', 'Open MPI')
        for name in ('SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_SIZE')
    )
    address = coordinator or env.get('JAX_COORDINATOR_ADDRESS', '')
    # Open MPI up to version 4 names the launcher's host. For later ones JAX asks mpi4py.
    if not address and 'OMPI_MCA_orte_hnp_uri' in env:
        port = env.get('JAX_COORDINATOR_PORT')
        address = clusters.OmpiCluster.get_coordinator_address(timeout, port)
        address = _loopback(address) if local_count == count else address
    if not address and local_count == count:
        job = env.get('PMIX_NAMESPACE', '')
        address = f'127.0.0.1:{2**16 - _PORTS + zlib.crc32(job.encode()) % _PORTS}'
    if not address and count > 1:
        raise UserError(
            'Open MPI does not report the host of process 0: expected --coordinator HOST:PORT, the '
            'first host of the run and a free port there.'
        )
    return Cluster('Open MPI', address, count, index, _gpus(env, local, local_count, 'Open MPI'))


def _slurm(env: Mapping[str, str], coordinator: str, timeout: int) -> Cluster | None:
    if 'SLURM_JOB_ID' not in env:
        return None
    name = 'Slurm'
    if 'SLURM_STEP_NODELIST' not in env or 'SLURM_PROCID' not in env:
        # A batch script, or a shell of salloc, is one process, whatever the number of tasks.
        tasks = _number(env, 'SLURM_NTASKS', name) if 'SLURM_NTASKS' in env else 1
        if tasks > 1:
            raise UserError(
                f'Slurm gave this job {tasks} tasks, but one process was started: expected srun '
                'before the command; --process_count 1 runs one process.'
            )
        return None
    count, index, local = (
        _number(env, f'SLURM_{variable}', name) for variable in ('NTASKS', 'PROCID', 'LOCALID')
    )
    _number(env, 'SLURM_JOB_ID', name)
    if index >= count:
        raise UserError(f'SLURM_PROCID is {index} and SLURM_NTASKS {count}: expected a lower one.')
    local_count = _tasks_here(env, count)
    address = coordinator or env.get('JAX_COORDINATOR_ADDRESS', '')
    if not address:
        port = env.get('JAX_COORDINATOR_PORT')
        address = clusters.SlurmCluster.get_coordinator_address(timeout, port)
        address = _loopback(address) if local_count == count else address
    return Cluster(name, address, count, index, _gpus(env, local, local_count, name))


def _loopback(address: str) -> str:
    """Returns the loopback address with the same port, for processes of one host."""
    return f'127.0.0.1:{address.rpartition(":")[2]}'


def _tasks_here(env: Mapping[str, str], count: int) -> int:
    """Returns the number of tasks of this job step on this host, from '2(x3),1' and its index."""
    text = env.get('SLURM_STEP_TASKS_PER_NODE', '')
    if not text:
        return count if env.get('SLURM_STEP_NUM_NODES', '1') == '1' else 1
    tasks = []
    try:
        for part in text.split(','):
            number, _, times = part.rstrip(')').partition('(x')
            tasks += [int(number)] * int(times or 1)
        return tasks[int(env['SLURM_NODEID'])]
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(
            f'Slurm: SLURM_STEP_TASKS_PER_NODE is {text!r} and SLURM_NODEID '
            f'{env.get("SLURM_NODEID")!r}: expected as 2(x3),1 and the number of one of the nodes.'
        ) from error


def _gpus(env: Mapping[str, str], local: int, here: int, found: str) -> tuple[int, ...] | None:
    """Returns the indices of this process's GPUs among the visible ones; None: all of them.

    A launcher shows each process either its own GPUs or all GPUs of the host.
    """
    visible = env.get('CUDA_VISIBLE_DEVICES', env.get('ROCR_VISIBLE_DEVICES', ''))
    if env.get('JAX_LOCAL_DEVICE_IDS'):
        return tuple(int(part) for part in env['JAX_LOCAL_DEVICE_IDS'].split(','))
    gpus = len(visible.split(',')) if visible else int(env.get('SLURM_GPUS_ON_NODE') or 0)
    # Set by srun: 'cpu=8,gres/gpu=1'. Without a GPU in it, it does not restrict GPUs.
    own = env.get('SLURM_GPUS_PER_TASK') or 'gpu' in env.get('SLURM_TRES_PER_TASK', '')
    if here <= 1 or gpus <= 1 or own:
        return None
    if gpus % here:
        raise UserError(
            f'{found} started {here} processes on a host where they see {gpus} GPUs: expected one '
            'for each GPU, or one for all, or JAX_LOCAL_DEVICE_IDS.'
        )
    share = gpus // here
    return tuple(range(local * share, (local + 1) * share))


def _on_tpu() -> bool:
    platforms = os.environ.get('JAX_PLATFORMS', '')
    # TPU_PROCESS_BOUNDS=1,1,1 turns one host of a slice into a separate slice.
    alone = os.environ.get('TPU_PROCESS_BOUNDS', os.environ.get('TPU_HOST_BOUNDS')) == '1,1,1'
    return (
        clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm  # pyright: ignore[reportPrivateImportUsage]
        and not alone
        and (not platforms or 'tpu' in platforms.split(','))
    )


def _tpu(env: Mapping[str, str], coordinator: str, timeout: int) -> Cluster | None:
    if not _on_tpu():
        return None
    for jax, name in (
        (clusters.GkeTpuCluster, 'the TPU slice of GKE'),
        (clusters.GceTpuCluster, "the TPU slice of this VM's metadata"),
    ):
        try:
            if not jax.is_env_present():
                continue
            count = jax.get_process_count()
            index = jax.get_process_id()
            address = coordinator or env.get('JAX_COORDINATOR_ADDRESS', '')
            if not address and count > 1:
                port = env.get('JAX_COORDINATOR_PORT')
                address = jax.get_coordinator_address(timeout, port)
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, OSError) and ',' not in env.get('TPU_WORKER_HOSTNAMES', ''):
                # Notebooks have single-host TPUs without a metadata server.
                log.warning('%s cannot be asked (%s): taken as one host', name, error)
                return None
            raise UserError(
                f'{name} did not report its processes ({error}): give all of {FLAGS}.'
            ) from error
        return Cluster(name, address, count, index)
    return None


def _kubernetes(env: Mapping[str, str], coordinator: str, timeout: int) -> Cluster | None:
    """Returns the pods of an Indexed Job or JobSet, as its manifest describes them."""
    if 'KUBERNETES_SERVICE_HOST' not in env or 'JOB_COMPLETION_INDEX' not in env:
        return None
    name = 'Kubernetes'
    index = _number(env, 'JOB_COMPLETION_INDEX', name)
    address = coordinator or env.get('JAX_COORDINATOR_ADDRESS', '')
    if address and 'JAX_PROCESS_COUNT' in env:
        if ':' not in address:
            address += ':' + env.get('JAX_COORDINATOR_PORT', '8476')
        return Cluster(name, address, _number(env, 'JAX_PROCESS_COUNT', name), index)
    if importlib.util.find_spec('kubernetes') and clusters.K8sCluster.is_env_present():
        try:
            count = clusters.K8sCluster.get_process_count()
            if not address and count > 1:
                address = clusters.K8sCluster.get_coordinator_address(timeout, None)
        except RuntimeError as error:
            raise UserError(f'Kubernetes did not report its processes: {error}') from error
        return Cluster(name, address, count, index)
    missing = ['JAX_COORDINATOR_ADDRESS'] * (not address)
    missing += ['JAX_PROCESS_COUNT'] * ('JAX_PROCESS_COUNT' not in env)
    raise UserError(
        f'Kubernetes says that this is pod {index} of a job and no more: expected '
        f'{" and ".join(missing)} in its environment, or the package kubernetes; '
        '--process_count 1 runs one process.'
    )


def _number(env: Mapping[str, str], name: str, found: str) -> int:
    value = env.get(name, '')
    if not value.isdigit():
        raise UserError(f'{found}: {name} is {value!r} in the environment: expected a number.')
    return int(value)
