"""The sources of a run's process addresses: flags, Slurm, Open MPI, Kubernetes, Cloud TPUs."""

import http.server
import os
import threading

import pytest
from jax._src import clusters

from cls.distributed import cluster
from cls.distributed.cluster import Cluster, find
from cls.errors import UserError

SLURM = {
    'SLURM_JOB_ID': '4711',
    'SLURM_STEP_NODELIST': 'node[003-004,007]',
    'SLURM_STEP_NUM_NODES': '3',
    'SLURM_STEP_TASKS_PER_NODE': '4(x2),2',
    'SLURM_NTASKS': '10',
    'SLURM_PROCID': '5',
    'SLURM_LOCALID': '1',
    'SLURM_NODEID': '1',
}
MPI = {
    'OMPI_COMM_WORLD_SIZE': '8',
    'OMPI_COMM_WORLD_RANK': '6',
    'OMPI_COMM_WORLD_LOCAL_RANK': '2',
    'OMPI_COMM_WORLD_LOCAL_SIZE': '4',
    'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911',
}
KUBERNETES = {
    'KUBERNETES_SERVICE_HOST': '10.0.0.1',
    'JOB_COMPLETION_INDEX': '3',
    'JAX_COORDINATOR_ADDRESS': 'run-0-0.run',
    'JAX_PROCESS_COUNT': '4',
}
GKE = {'TPU_WORKER_ID': '2', 'TPU_WORKER_HOSTNAMES': 't-0,t-1,t-2,t-3'}


@pytest.fixture(autouse=True)
def nothing(monkeypatch):
    """An environment without launchers."""
    for name in list(os.environ):
        if name.startswith(
            ('SLURM', 'OMPI', 'PMIX', 'KUBE', 'JOB_', 'TPU_', 'JAX_', 'MEGA', 'CUDA')
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def environment(monkeypatch):
    def change(*parts):
        for name, value in {k: v for part in parts for k, v in part.items()}.items():
            monkeypatch.setenv(name, value)

    return change


@pytest.fixture
def tpu(monkeypatch):
    """A patched host of a TPU, as JAX sees one."""
    monkeypatch.setattr(clusters.cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
    known = clusters.cloud_tpu_cluster.BaseTpuCluster
    monkeypatch.setattr(known, 'wait_for_coordinator', lambda *_: None)  # there is no such host


def test_nothing_tells_of_others():
    assert find() is None
    assert find(count=1) is None


def test_flags_say_all():
    assert find('host:1234', 4, 0) == Cluster('flags', 'host:1234', 4, 0)
    assert find('[fe80::1]:1234', 4, 3).coordinator == '[fe80::1]:1234'
    assert find('host:1234', 1, 0) is None


@pytest.mark.parametrize(
    'flags, words',
    [
        (('host', 4, 0), "--coordinator is 'host': expected HOST:PORT"),
        (('host:0', 4, 0), 'expected HOST:PORT'),
        (('host:99999', 4, 0), 'expected HOST:PORT'),
        (('host:1', 4, 4), '--process_index is 4 and --process_count 4'),
        (('host:1', -1, 0), '--process_count -1'),
        (('host:1', 4, -1), 'nothing describes the other processes: expected --coordinator'),
        (('', 4, 1), 'nothing describes'),
        (('', 0, 1), 'nothing describes'),
    ],
)
def test_flags_that_do_not_do(flags, words):
    with pytest.raises(UserError, match=words.replace('(', r'\(')):
        find(*flags)


def test_slurm(environment):
    environment(SLURM)
    port = 61440 + 4711 % 4096
    assert find() == Cluster('Slurm', f'node003:{port}', 10, 5)
    assert find('other:1').coordinator == 'other:1'
    assert find(count=10, index=5).index == 5
    assert find(count=1) is None
    with pytest.raises(UserError, match='--process_count is 4, but Slurm says 10'):
        find(count=4)
    with pytest.raises(UserError, match='--process_index is 0, but Slurm says 5'):
        find(index=0)
    assert find('host:1', 2, 0) == Cluster('flags', 'host:1', 2, 0)  # flags override Slurm


@pytest.mark.parametrize(
    'more, devices',
    [
        ({'SLURM_GPUS_ON_NODE': '4'}, (1,)),  # one each
        ({'SLURM_GPUS_ON_NODE': '8'}, (2, 3)),
        ({'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, (1,)),
        (
            {'CUDA_VISIBLE_DEVICES': '3', 'SLURM_GPUS_ON_NODE': '4'},
            None,
        ),  # Slurm shows each process its own GPU
        ({'SLURM_GPUS_ON_NODE': '4', 'SLURM_GPUS_PER_TASK': '1'}, None),
        ({'SLURM_GPUS_ON_NODE': '4', 'SLURM_TRES_PER_TASK': 'cpu=8,gres/gpu=1'}, None),
        ({'SLURM_GPUS_ON_NODE': '4', 'SLURM_TRES_PER_TASK': 'cpu=8'}, (1,)),
        ({'SLURM_GPUS_ON_NODE': '8', 'SLURM_STEP_TASKS_PER_NODE': '1(x10)'}, None),  # one for all
        ({'JAX_LOCAL_DEVICE_IDS': '2,3'}, (2, 3)),
    ],
)
def test_gpus_of_a_process(more, devices, environment):
    environment(SLURM, more)
    assert find().local_devices == devices


def test_processes_that_are_all_on_one_host_meet_at_loopback(environment, monkeypatch):
    one = {'SLURM_NTASKS': '4', 'SLURM_PROCID': '1', 'SLURM_STEP_TASKS_PER_NODE': '4'}
    environment(SLURM, one, {'SLURM_NODEID': '0', 'SLURM_STEP_NUM_NODES': '1'})
    assert find().coordinator == f'127.0.0.1:{61440 + 4711 % 4096}'
    assert find('other:1').coordinator == 'other:1'
    environment({'JAX_COORDINATOR_ADDRESS': 'host:2'})
    assert find().coordinator == 'host:2'
    monkeypatch.delenv('JAX_COORDINATOR_ADDRESS')
    monkeypatch.delenv('SLURM_JOB_ID')
    environment(MPI, {'OMPI_COMM_WORLD_LOCAL_SIZE': '8'})
    assert find().coordinator == f'127.0.0.1:{61440 + 1531576320 // 4096 % 4096}'


@pytest.mark.parametrize(
    'more, words',
    [
        ({'SLURM_GPUS_ON_NODE': '6'}, 'started 4 processes on a host where they see 6 GPUs'),
        ({'SLURM_PROCID': '10'}, 'SLURM_PROCID is 10 and SLURM_NTASKS 10'),
        ({'SLURM_NTASKS': 'many'}, "SLURM_NTASKS is 'many' in the environment"),
        ({'SLURM_STEP_TASKS_PER_NODE': '4'}, "SLURM_STEP_TASKS_PER_NODE is '4'"),
    ],
)
def test_what_slurm_cannot_mean(more, words, environment):
    environment(SLURM, more)
    with pytest.raises(UserError, match=words):
        find()


def test_a_batch_script_without_srun(environment):
    environment({'SLURM_JOB_ID': '4711', 'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'})
    with pytest.raises(UserError, match='4 tasks, but one process was started: expected srun'):
        find()
    assert find(count=1) is None
    environment({'SLURM_NTASKS': '1'})
    assert find() is None


def test_open_mpi(environment, monkeypatch):
    environment(MPI)
    port = 61440 + 1531576320 // 4096 % 4096
    assert find() == Cluster('Open MPI', f'10.96.0.1:{port}', 8, 6)
    environment({'CUDA_VISIBLE_DEVICES': '0,1,2,3'})
    assert find().local_devices == (2,)
    monkeypatch.delenv('OMPI_MCA_orte_hnp_uri')  # removed in version 5
    with pytest.raises(UserError, match='does not report the host of process 0: expected --coord'):
        find()
    assert find('host:1').coordinator == 'host:1'
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    environment({'OMPI_COMM_WORLD_LOCAL_SIZE': '8', 'PMIX_NAMESPACE': 'prterun-a-1@1'})
    assert find().coordinator.startswith('127.0.0.1:6')


def test_kubernetes(environment, monkeypatch):
    environment(KUBERNETES)
    assert find() == Cluster('Kubernetes', 'run-0-0.run:8476', 4, 3)
    monkeypatch.delenv('JAX_PROCESS_COUNT')
    with pytest.raises(UserError, match='pod 3 of a job .* expected JAX_PROCESS_COUNT in its env'):
        find()
    assert find(count=1) is None


class Metadata(http.server.BaseHTTPRequestHandler):
    attributes = {}

    def do_GET(self):
        name = self.path.rpartition('/')[2]
        assert self.path == f'/computeMetadata/v1/instance/attributes/{name}'
        self.send_response(200 if name in self.attributes else 404)
        self.end_headers()
        self.wfile.write(self.attributes.get(name, '').encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def metadata(environment, tpu):
    """The metadata server of a TPU VM; tests can change its answers."""
    Metadata.attributes = {
        'agent-worker-number': '1',
        'worker-network-endpoints': 'unknown:unknown:10.1.0.5,unknown:unknown:10.1.0.6',
        'tpu-env': "ACCELERATOR_TYPE: 'v5litepod-8'",
    }
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Metadata) as server:
        environment({'GCE_METADATA_IP': f'127.0.0.1:{server.server_port}'})
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Metadata.attributes
        server.shutdown()


def test_a_tpu_slice_of_gke(environment, metadata):
    environment(GKE)
    assert find() == Cluster('the TPU slice of GKE', 't-0:8482', 4, 2)
    assert find('t-0:8476').coordinator == 't-0:8476'
    with pytest.raises(UserError, match='--process_count is 1, but the TPU slice of GKE has 4'):
        find(count=1)
    environment({'TPU_PROCESS_BOUNDS': '1,1,1'})
    assert find() is None  # a slice of one host
    environment({'TPU_PROCESS_BOUNDS': '2,2,1', 'JAX_PLATFORMS': 'cpu'})
    assert find() is None
    environment({'JAX_PLATFORMS': 'tpu,cpu', 'GCE_METADATA_IP': '127.0.0.1:1'})
    with pytest.raises(UserError, match='the TPU slice of GKE did not report its processes'):
        find()


def test_a_tpu_slice_by_metadata(metadata):
    assert find() == Cluster("the TPU slice of this VM's metadata", '10.1.0.5:8482', 2, 1)


def test_several_slices_by_metadata(metadata):
    metadata['tpu-env'] = (
        "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.1.0.3:8080'"
    )
    found = find()
    assert (found.coordinator, found.count, found.index) == ('10.1.0.3:8482', 4, 3)


def test_several_single_vms_are_no_slice(metadata):
    metadata['worker-network-endpoints'] = '10.1.0.5'
    metadata['agent-worker-number'] = '0'
    assert find() is None
    with pytest.raises(UserError, match='--process_count is 4, but .* says 1: .* are not a slice'):
        find(count=4)


def test_a_tpu_without_metadata_is_one_host(metadata, environment, capsys):
    environment({'GCE_METADATA_IP': '127.0.0.1:1'})
    assert find() is None
    assert 'taken as one host' in capsys.readouterr().err


def test_no_look_at_the_metadata_without_a_tpu(monkeypatch):
    def ask(_):
        raise AssertionError

    monkeypatch.setattr(clusters.cloud_tpu_cluster, 'get_metadata', ask)
    assert cluster.find() is None
