"""A run folder whose classes and files have names of HTML, with images to evaluate it on."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / 'inference'))

from tiny_run import encoded, pixels, write_run  # noqa: E402

CLASSES = ('<script>alert(1)', '<img src=x onerror=alert(2)>', '"ant" & \'bee\'', 'n01440764')
IMAGES = 3  # of each class
STEPS = 40


def write(folder):
    """Writes a run folder RUN and its data set; returns RUN."""
    for number, name in enumerate(CLASSES):
        for split, count in (('train', 1), ('test', IMAGES)):
            place = folder / 'data' / split / name
            place.mkdir(parents=True)
            for i in range(count):
                file = place / f'{i}<b>.png'
                file.write_bytes(encoded(pixels(10 * number + i, 36, 40)))
    fields = [('data.name', f'folder:{folder / "data"}'), ('duration', f'{STEPS} steps')]
    run = write_run(folder / 'run', *fields, classes=CLASSES)
    lines = []
    for step in range(4, STEPS + 1, 4):
        values = {'train/loss': 3 / step, 'train/top1': 2.0 * step, 'learning_rate': 0.1 / step}
        values |= {'epoch': step / 8, 'train/steps': 4, 'images_per_second': 100.0}
        lines.append({'step': step, **values, 'time/step': 1.0 * step})
        if step % 20 == 0:
            lines.append({'step': step, 'test/top1': 1.5 * step, 'test/loss': 4 / step})
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (run / 'metrics.jsonl').write_text(text)
    spent = {'start': 10.0, 'compile': 20.0, 'step': 60.0, 'downtime': 100.0, 'other': 10.0}
    (run / 'time.json').write_text(json.dumps(spent | {'restarts': 1}))
    result = {'test/top1': 60.0, 'test/top5': 100.0, 'test/loss': 0.1, 'seconds': 100.0}
    result |= {'split': 'test', 'step': 0, 'time': spent, 'restarts': 1}
    (run / 'result.json').write_text(json.dumps(result))
    return run
