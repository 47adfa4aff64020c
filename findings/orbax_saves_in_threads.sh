#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: two checkpointers of one process that save from two threads, each in a folder of its
# own, share the number of their operation, and wait for each other's signals.
#
# One would guess that two AsyncCheckpointers with different folders have nothing in common. The parts of a save
# (folders made, metadata written) wait for one another by signals, whose names begin with the number of the
# operation. This number is one variable of the whole process: `save` of another checkpointer, in another
# thread, changes it while the first save still asks for it. A save whose number has changed looks for signals
# of the other one: it writes into a folder that is not there yet (FileNotFoundError),
# or waits for its whole timeout of minutes. Calls of `save` one after the other in one thread are
# safe, also while earlier saves are still being written.
# Hurt: who trains several networks in one process, or calls `save` in a thread so that the loop need not wait.
# Instead: call `save` of all checkpointers under one lock, or in one thread.
# Source: this script; orbax/checkpoint/_src/futures/synchronization.py (OperationIdGenerator) of 0.12.8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check orbax-checkpoint==0.12.8 jax==0.10.2 \
  jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/two.py" <<'END'
import os
import pathlib
import sys
import threading

import orbax.checkpoint as ocp
from orbax.checkpoint._src.futures.synchronization import OperationIdGenerator

folder = pathlib.Path(sys.argv[1])
numbers = []


def save(name, handler):
    checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(data=handler))
    values = ocp.args.Composite(data=ocp.args.JsonSave({'from': name}))
    checkpointer.save(folder / name, args=values)
    checkpointers.append(checkpointer)


async def slow(*args, **kwargs):
    # Meanwhile another checkpointer saves in another folder, in a thread of its own.
    numbers.append(OperationIdGenerator.get_current_operation_id())
    thread = threading.Thread(target=save, args=('second', ocp.JsonCheckpointHandler()))
    thread.start()
    thread.join()
    numbers.append(OperationIdGenerator.get_current_operation_id())
    return await write(*args, **kwargs)


checkpointers = []
first = ocp.JsonCheckpointHandler()
write, first.async_save = first.async_save, slow
save('first', first)
print(f'the number of the first operation: {numbers[0]}, later in the same save: {numbers[1]}', flush=True)
os._exit(0 if numbers == ['1', '2'] else 1)  # the first save would wait for its signals
END
if JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/two.py" "$folder/checkpoints"; then
  echo 'Operations of two threads share their number.'
else
  echo 'The behavior has changed.'
  exit 1
fi
