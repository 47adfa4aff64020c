"""Networks of Hugging Face transformers: name -> (builder, image size).

The padding of EfficientNet depends on the parity of sizes at each stride, here those of the
network's own size.
"""

import functools

import transformers as hf

RESNET = {
    'resnet-18': {'depths': [2, 2, 2, 2], 'layer_type': 'basic'},
    'resnet-34': {'depths': [3, 4, 6, 3], 'layer_type': 'basic'},
    'resnet-50': {},
    'resnet-101': {'depths': [3, 4, 23, 3]},
    'resnet-152': {'depths': [3, 8, 36, 3]},
}
# Width, depth, image size, features, blocks whose padding is for odd sizes; image size of the row.
EFFICIENTNET = {
    'efficientnet-b0': (1.0, 1.0, 224, 1280, [], 64),
    'efficientnet-b1': (1.0, 1.1, 240, 1280, [16], 48),
    'efficientnet-b2': (1.1, 1.2, 260, 1408, [5, 8, 16], 36),
    'efficientnet-b3': (1.2, 1.4, 300, 1536, [5, 18], 44),
    'efficientnet-b4': (1.4, 1.8, 380, 1792, [6], 60),
    'efficientnet-b5': (1.6, 2.2, 456, 2048, [13, 27], 40),
    'efficientnet-b6': (1.8, 2.6, 528, 2304, [31], 48),
    'efficientnet-b7': (2.0, 3.1, 600, 2560, [18], 56),
}


def resnet(depths=(3, 4, 6, 3), layer_type='bottleneck'):
    sizes = [64, 128, 256, 512] if layer_type == 'basic' else [256, 512, 1024, 2048]
    config = hf.ResNetConfig(
        num_labels=10, depths=list(depths), layer_type=layer_type, hidden_sizes=sizes
    )
    return Logits(hf.ResNetForImageClassification(config))


def efficientnet(width, depth, size, features, odd):
    config = hf.EfficientNetConfig(
        num_labels=10,
        width_coefficient=width,
        depth_coefficient=depth,
        image_size=size,
        hidden_dim=features,
        depthwise_padding=odd,
    )
    return Logits(hf.EfficientNetForImageClassification(config))


def mobilenet_v1(width):
    config = hf.MobileNetV1Config(num_labels=1001, depth_multiplier=width)
    return Logits(hf.MobileNetV1ForImageClassification(config))


def mobilenet_v2(width):
    config = hf.MobileNetV2Config(num_labels=1001, depth_multiplier=width)
    return Logits(hf.MobileNetV2ForImageClassification(config))


class Logits(hf.modeling_utils.nn.Module):
    """A network that returns logits, under the names of the network itself."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images).logits

    def state_dict(self):
        return self.network.state_dict()

    def load_state_dict(self, state, strict):
        return self.network.load_state_dict(state, strict=strict)


NETWORKS = {
    **{name: (functools.partial(resnet, **fields), 64) for name, fields in RESNET.items()},
    **{
        name: (functools.partial(efficientnet, *row[:-1]), row[-1])
        for name, row in EFFICIENTNET.items()
    },
    **{
        f'mobilenet_v1_{w}': (functools.partial(mobilenet_v1, w), 65)
        for w in (0.25, 0.5, 0.75, 1.0)
    },
    **{
        f'mobilenet_v2_{w}': (functools.partial(mobilenet_v2, w), 65)
        for w in (0.35, 0.5, 0.75, 1.0, 1.4)
    },
}
