"""The peer of `benchmark weights`: timm's load of a checkpoint.

Run by that tool with an interpreter that has PyTorch: weights_with_torch.py NETWORK FILE [save].
With `save`, it saves a network of torch_models.py and prints the number of tensors.
"""

import sys

import timm
import torch
import torch_models  # next to this file, a script
from answering import answer, resident


def main(network: str, file: str, save: str = '') -> None:
    """Saves a network, or answers requests to load it."""
    if save:
        state = torch_models.create(network).state_dict()
        torch.save(state, file)
        print(sum(not name.endswith('num_batches_tracked') for name in state))
        return

    def load(count: int) -> None:
        for _ in range(count):
            name = network.partition(':')[2]
            known = network.startswith('timm:') or timm.is_model(name)
            model = timm.create_model(name) if known else torch_models.create(network)
            model.load_state_dict(torch.load(file, weights_only=True))

    answer({'load': load}, resident=resident())


if __name__ == '__main__':
    main(*sys.argv[1:])
