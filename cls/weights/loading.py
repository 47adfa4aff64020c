"""Fills a variant from a located file, after all evidence on the network of the file."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cls.errors import UserError
from cls.models.registry import Variant
from cls.weights import card as cards
from cls.weights.colors import reverse_colors
from cls.weights.files import Checkpoint
from cls.weights.fitting import Fitted, fit
from cls.weights.hints import Hints
from cls.weights.hub import HUB, Located
from cls.weights.images import Preparation, prepared_for
from cls.weights.recognition import contradict, recognize
from cls.weights.stem import COLORS


def hints_of(source: str, located: Located, checkpoint: Checkpoint) -> Hints:
    """Returns the hints of a checkpoint.

    Args:
      source: the name of its file or repository, as of `hub.locate`.
      located: its files.
      checkpoint: its contents.
    """
    repository = source.removeprefix(HUB) if source.startswith(HUB) else ''
    return Hints(located.card, repository, checkpoint.card, located.file.name)


def fill(
    checkpoint: Checkpoint,
    variant: str,
    file: Path,
    hints: Hints,
    fields: Mapping[str, Any],
    **options: Any,
) -> Fitted:
    """Returns the variables of a file.

    Args:
      checkpoint: its contents.
      variant: the name of a variant.
      file: its path, for messages.
      hints: the metadata of the file.
      fields: fields of the module, as of `fit`.
      **options: `part` or `without_head` of `fit`.

    Raises:
      UserError: the tensors do not fit, with the network that they fit; or a hint means another
        network of the same tensors.
    """
    try:
        fitted = fit(checkpoint.tensors, variant, source=file, **options, **fields)
    except UserError as error:
        raise UserError(f'{error}{_instead(checkpoint.tensors, variant)}') from None
    with naming(file):
        contradict(variant, fitted.family, hints)
    return fitted


def prepare(
    fitted: Fitted,
    variant: Variant,
    located: Located,
    source: str,
    size: int = 0,
    bgr: bool = False,
) -> tuple[Preparation, bool]:
    """Returns (the preparation of images, whether the weights were of BGR); now they are of RGB.

    Args:
      fitted: the variables; the first convolution is reversed in place if the weights expect BGR.
      variant: their variant.
      located: their files.
      source: the checkpoint as the user gave it, or the source of published weights.
      size: the wanted pixels, see `prepared_for`.
      bgr: whether they expect BGR though nothing says so. Then images are prepared as Caffe does
        where nothing else is known.

    Raises UserError as `prepared_for`, or if no single layer can be the first convolution.
    """
    with located.naming_card():
        package = 'caffe' if bgr else fitted.family
        cards.check_channels(located.card, fitted.channels)
        prepared = prepared_for(variant, located, source, size, package, fitted.channels)
    if reverse := bgr or (prepared.space == 'BGR' and fitted.channels == COLORS):
        reverse_colors(fitted.variables['params'])
    return prepared, reverse


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Puts the path of a file before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{file}: {error}') from None


def _instead(tensors: Mapping[str, np.ndarray], variant: str) -> str:
    """Returns a text on the network that tensors fit in place of a variant, '' for none."""
    try:
        matches = [m for m in recognize(tensors) if m.variant != variant and not m.part]
    except UserError:
        return ''
    return f'; they are the tensors of {" or ".join(map(str, matches))}' if matches else ''
