"""SKNet: the released SKNet-101, which the packages do not have."""

from cls import models
from cls.models.registry.complexity import complexity


def test_the_released_sknet101_fuses_to_fewer_channels_in_its_third_stage():
    model = models.create('sknet101', fused_min=(32, 16, 32, 32))
    assert complexity(model, 64).params == 48_686_760
