# cls in a container, for CPUs, NVIDIA GPUs or TPUs:
#
#   docker build --build-arg ACCELERATOR=cuda --tag cls .         # cpu (the default), cuda or tpu
#   docker run --rm --init --volume "$PWD/runs:/cls/runs" cls --config configs/resnet.py
#
# With GPUs: --gpus all (driver 580 or newer; CUDA 13 is in the image); on a TPU VM: --privileged
# --net=host. `docker stop -t 300` leaves the time to save. Data: --volume /data:/data.
FROM python:3.12-slim-bookworm

# The run folder records the commit, which git finds in the copy below.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /cls

WORKDIR /cls
COPY requirements.txt ./
COPY launch/requirements-*.txt launch/
ARG ACCELERATOR=cpu
RUN case "$ACCELERATOR" in \
        cpu) file=requirements.txt ;; \
        cuda | tpu) file="launch/requirements-$ACCELERATOR.txt" ;; \
        *) echo "ACCELERATOR is '$ACCELERATOR'; expected cpu, cuda or tpu" >&2; exit 2 ;; \
    esac \
    && pip install --no-cache-dir --disable-pip-version-check --requirement "$file"

COPY . .
ENTRYPOINT ["python", "-m", "cls.main"]
