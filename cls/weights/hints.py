"""Names that come with a checkpoint, and the variants that they mean.

Names and shapes of tensors do not tell networks apart that differ in padding, an epsilon, pooling,
an activation or the position of strides. A name of the network does: in a snapshot's config.json,
in the name of a repository on the Hugging Face Hub, in the arguments of a training script, or in
the name of the file.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cls import models
from cls.weights import card as cards
from cls.weights.families import Family, families


@dataclasses.dataclass(frozen=True)
class Hints:
    """The metadata of a checkpoint, as far as it names the network.

    Attributes:
      card: a snapshot's config.json, see `card`.
      repository: OWNER/NAME on the Hugging Face Hub.
      script: a training script's arguments, in the form of a card.
      file: the name of the file.
    """

    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    repository: str = ''
    script: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    file: str = ''

    @classmethod
    def make(cls, hints: 'Hints | Mapping[str, Any] | None') -> 'Hints':
        """Returns hints from fields by name, or from a card alone; no hints from None."""
        if isinstance(hints, Hints):
            return hints
        hints = hints or {}
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**hints) if hints.keys() <= names else cls(card=hints)


@dataclasses.dataclass(frozen=True)
class Word:
    """A name of a network.

    Attributes:
      text: the name.
      source: its source, as "config.json's architecture".
      strict: whether tensors of another network are refused.
      package: the package that the name is of, '' if that is not known.
    """

    text: str
    source: str
    strict: bool
    package: str = ''


def words(hints: Hints) -> Iterator[Word]:
    """Yields the names in hints, the most reliable first."""
    if text := cards.word(hints.card):
        yield Word(cards.plain_word(text), "config.json's architecture", True, 'timm')
    if hints.card.get('model_type') == 'resnet' and 'downsample_in_bottleneck' in hints.card:
        first = bool(hints.card['downsample_in_bottleneck'])
        text = 'stride-in-1x1' if first else 'stride-in-3x3'
        yield Word(text, "config.json's downsample_in_bottleneck", False, 'transformers')
    if hints.repository:
        full = hints.repository.partition('@')[0]
        owner, _, name = full.rpartition('/')
        package = owner if owner == 'timm' else ''
        if any(_entry(family, full) for family in families()):
            yield Word(full, 'the name of the repository', True)
        yield from _known_part(name, 'the name of the repository', bool(package), package)
    if text := cards.word(hints.script):
        yield from _known_part(cards.plain_word(text), "the training script's arguments", False)
    if hints.file:
        yield from _known_part(hints.file, "the file's name", False)


def _known_part(name: str, source: str, strict: bool, package: str = '') -> Iterator[Word]:
    """Yields the longest beginning of a name that a network has."""
    ends = [*(match.start() for match in re.finditer(r'[-_.]', name)), len(name)]
    starts = [text for end in ends for text in (name[:end], name[:end].lower())]
    parts = [part for text in starts for part in (text, cards.plain_word(text))]
    here = [part for part in parts if _is_known(part)]
    # A longer name may be of a network that is not here, as resnet50_gn.
    absent = next((part for part in parts if any(_absent(f, part) for f in families())), '')
    best = max((*here, absent), key=len, default='')
    if best:
        yield Word(best, source, strict, package)


def _is_known(text: str) -> bool:
    return cards.is_known(text) or any(text in family.networks for family in families())


def meaning(word: Word, variant: str, family: str) -> tuple[bool | None, str]:
    """Returns (whether a word means a variant, the reason if the network is not here).

    The first is None if the word is unknown. The names of the package that the word is of come
    first, or of that with the names of the tensors, then those that a variant has in any package.

    Args:
      word: the name.
      variant: the name of a variant that the tensors fit.
      family: the package with their names.
    """
    if word.text.startswith('stride-in-'):
        first = getattr(models.create(variant), 'stride_on_first', None)
        return first is not None and first == (word.text == 'stride-in-1x1'), ''
    entries = {each.name: _entry(each, word.text) for each in families()}
    near = word.package if entries.get(word.package) else family
    own = [entry for name, entry in entries.items() if entry and name == near]
    if not own and word.text in {*cards.words(models.variant(variant)), *_names(variant)}:
        return True, ''
    for name, reason in own or filter(None, entries.values()):
        return name == variant, reason
    if word.text in {name for names in cards.LOOKALIKES.values() for name in names}:
        return False, f"timm's {word.text}"
    return (False if cards.is_known(word.text) else None), ''


def absent(hints: Hints) -> str:
    """Returns a text on a name of a network that a package has and that is not here; '' if none."""
    for word in words(hints):
        entries = filter(None, (_entry(family, word.text) for family in families()))
        for variant, reason in entries:
            return '' if variant else f'{word.source} says that this is {reason}, which is not here'
    return ''


def _names(variant: str) -> tuple[str, ...]:
    reference = models.variant(variant).reference
    return (variant, reference.rpartition(':')[2]) if reference else (variant,)


def _entry(family: Family, text: str) -> tuple[str, str] | None:
    """Returns (variant, '') or ('', the reason of its absence) of a family's name of a network."""
    if text in family.networks:
        return family.networks[text], ''
    difference = _absent(family, text)
    return ('', f"{family.name}'s {text} ({difference})") if difference else None


def _absent(family: Family, text: str) -> str:
    """Returns the difference of a family's network that is not here, '' for any other name."""
    differences = (d for pattern, d in family.missing.items() if re.fullmatch(pattern, text))
    return next(differences, '')
