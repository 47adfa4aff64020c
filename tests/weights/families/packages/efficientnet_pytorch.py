"""Networks of efficientnet-pytorch and efficientnet-lite-pytorch: name -> (builder, image size).

Its padding depends on the parity of sizes: at each stride, here as for the network's own size.
"""

import functools

from efficientnet_lite_pytorch import EfficientNet as Lite
from efficientnet_pytorch import EfficientNet

SIZES = {'b0': 64, 'b1': 48, 'b2': 36, 'b3': 44, 'b4': 60, 'b5': 40, 'b6': 48, 'b7': 56, 'b8': 64}
LITE = {'lite0': 64, 'lite1': 48, 'lite2': 36, 'lite3': 56, 'lite4': 44}


def build(package, name):
    """Returns a network; the pool of Lite has the size of its map."""
    size = {'image_size': LITE[name.removeprefix('efficientnet-')]} if package is Lite else {}
    return package.from_name(name, num_classes=10, **size)


NETWORKS = {
    f'efficientnet-{name}': (functools.partial(build, package, f'efficientnet-{name}'), size)
    for package, sizes in ((EfficientNet, SIZES), (Lite, LITE))
    for name, size in sizes.items()
}
