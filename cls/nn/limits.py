"""The largest number of layers of a network, config.limits.layers.

A larger network would trace and compile for hours without a message.
"""

from cls.errors import UserError

_max_layers = 1000  # the default of config.limits.layers


def max_layers() -> int:
    """Returns the largest number of layers, or blocks, of a network."""
    return _max_layers


def limit_layers(count: int) -> None:
    """Sets `max_layers` for this process."""
    global _max_layers
    _max_layers = count


def check_layers(count: int, what: str) -> None:
    """Raises UserError if `count` is above `max_layers`; `what` names the network."""
    if count > _max_layers:
        raise UserError(
            f'{what} has {count:,} layers or blocks: expected at most {_max_layers:,} '
            '(config.limits.layers).'
        )
