"""A stand-in for a training: a process that writes a run folder in little time.

  python -S trained.py FOLDER CONFIG SCORE EVALUATIONS [HOW]

It writes config.json, a line of metrics.jsonl for each evaluation, with a pause, and result.json.
HOW is 'fails' (exit code 2), 'once' (killed by a signal at the first attempt) or empty. It ends
when its standard input is closed, and counts its starts in FOLDER/starts.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time


def follow():
    while os.read(0, 1):
        pass
    os._exit(0)


folder, config, score, evaluations, how = [*sys.argv[1:], ''][:5]
threading.Thread(target=follow, daemon=True).start()
os.makedirs(folder, exist_ok=True)
with open(f'{folder}/starts', 'a') as file:
    file.write('.')
shutil.copy(config, f'{folder}/config.partial')
os.replace(f'{folder}/config.partial', f'{folder}/config.json')
if how == 'fails':
    sys.exit('a line\nerror: the rate is too high')
if how == 'once' and os.path.getsize(f'{folder}/starts') == 1:
    os.kill(os.getpid(), signal.SIGKILL)
for number in range(1, int(evaluations) + 1):
    time.sleep(0.05)
    with open(f'{folder}/metrics.jsonl', 'a') as file:
        value = float(score) * number / int(evaluations)
        file.write(json.dumps({'step': 50 * number, 'test/top1': value}) + '\n')
time.sleep(0.3 if how == 'slow' else 0)
result = {'test/top1': float(score), 'test/top5': 99.0, 'test/loss': 0.1, 'step': 100}
with open(f'{folder}/result.partial', 'w') as file:
    json.dump(result | {'seconds': 1.0}, file)
os.replace(f'{folder}/result.partial', f'{folder}/result.json')
