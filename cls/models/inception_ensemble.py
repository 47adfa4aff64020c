"""The ensemble of Inception-v4 and Inception-ResNet-v2 (AAAI 2017).

Szegedy, Ioffe, Vanhoucke, Alemi; https://arxiv.org/abs/1602.07261, section 5 and Table 5

One Inception-v4 and three Inception-ResNet-v2, each trained independently; their softmax outputs
are averaged over the networks and over the crops of an image. cls/ensemble.py trains and evaluates
it; this file defines no network.
"""

from cls.models.registry import Ensemble, System, register_ensemble

SYSTEM = System(
    name='Inception-v4 + Inception-ResNet-v2',
    title='Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning',
    venue='AAAI 2017',
    arxiv='1602.07261',
    top1=83.5,  # validation set, 144 crops
    top5=96.92,  # test set
)
MEMBERS = ('inception_v4', 'inception_resnet_v2', 'inception_resnet_v2', 'inception_resnet_v2')

register_ensemble(Ensemble('inception_ensemble', SYSTEM, MEMBERS))
