"""The largest number of layers that a network may have, config.limits.layers.

A network of more would trace and compile for hours without a word.
"""

from cls.errors import UserError

_max_layers = 1000  # the default of config.limits.layers


def max_layers() -> int:
    """Returns how many layers, or blocks, a network may have."""
    return _max_layers


def limit_layers(count: int) -> None:
    """Sets, for this process, what `max_layers` returns: config.limits.layers."""
    global _max_layers
    _max_layers = count


def check_layers(count: int, what: str) -> None:
    """Raises UserError if something stands for more layers than a net may have."""
    if count > _max_layers:
        raise UserError(
            f'{what} has {count:,} layers or blocks: expected at most {_max_layers:,} '
            '(config.limits.layers).'
        )
