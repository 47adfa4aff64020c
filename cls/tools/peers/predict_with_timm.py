"""The predictions of `benchmark predict` with timm: a loader, a network, a table.

Run by that tool with an interpreter that has PyTorch and timm: predict_with_timm.py NETWORK FILE
save, or NETWORK FILE FOLDER FEW OUTPUT BATCH THREADS FORMAT WORKERS PREPARATION. NETWORK is a name
of torch_models.py, FILE has its weights, FOLDER the images, FEW some of them; PREPARATION is a JSON
object with size, resize, interpolation, squash, mean and std. answering.py has input and output.
"""

import csv
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch_models  # next to this file, a script
from answering import answer

torch_models.torchvision()  # timm imports it
import timm.data  # noqa: E402

TOP = 5


def main(
    network: str,
    file: str,
    folder: str,
    few: str,
    output: str,
    batch: str,
    threads: str,
    layout: str,
    workers: str,
    preparation: str,
) -> None:
    """Answers requests to predict the images of either folder."""
    torch.set_num_threads(int(threads))
    memory_format = torch.contiguous_format if layout == 'contiguous' else torch.channels_last
    model = torch_models.create(network)
    model.load_state_dict(torch.load(file, weights_only=True))
    model = model.eval().to(memory_format=memory_format)
    options = {'batch_size': int(batch), 'num_workers': int(workers)}
    prepared = json.loads(preparation)

    def work(images: str) -> Callable[[int], None]:
        def passes(count: int) -> None:
            for _ in range(count):
                predict(model, loader(images, prepared, options), memory_format, output)

        return passes

    params = sum(x.numel() for x in model.parameters())
    work(few)(1)
    versions = {'torch': torch.__version__, 'timm': timm.__version__}
    answer({'predict': work(folder), 'few': work(few)}, params=params, versions=versions)


def loader(folder: str, prepared: dict[str, Any], options: dict[str, int]) -> Any:
    """Returns timm's loader of a folder, for an evaluation."""
    size = prepared['size']
    return timm.data.create_loader(
        timm.data.create_dataset('', root=folder),
        input_size=(3, size, size),
        crop_pct=size / prepared['resize'],
        interpolation=prepared['interpolation'],
        crop_mode='squash' if prepared['squash'] else 'center',
        mean=prepared['mean'],
        std=prepared['std'],
        device=torch.device('cpu'),
        **options,
    )


def predict(model: torch.nn.Module, batches: Any, layout: torch.memory_format, output: str) -> None:
    """Writes a table with the most probable classes of each image."""
    names = batches.dataset.filenames(basename=True)
    rows = []
    with torch.inference_mode():
        for images, _ in batches:
            logits = model(images.contiguous(memory_format=layout))
            best = logits.softmax(-1).topk(min(TOP, logits.shape[1]))
            rows += zip(best.indices.tolist(), best.values.tolist(), strict=True)
    with open(output, 'w', newline='') as file:
        writer = csv.writer(file)
        for name, (indices, probabilities) in zip(names, rows, strict=True):
            writer.writerow([name, *indices, *probabilities])


def save(network: str, file: str) -> None:
    """Saves a network with random weights."""
    torch.manual_seed(0)
    torch.save(torch_models.create(network).state_dict(), file)


if __name__ == '__main__':
    if sys.argv[3] == 'save':
        save(*sys.argv[1:3])
    else:
        main(*sys.argv[1:])
