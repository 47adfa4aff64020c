"""Recognition of the network, the package and the number of classes of a file's tensors.

The numbers of tensors of each shape find the nearest variants in the index; the names of each
family of names decide. If the tensors fit several networks with different numbers, the names that
come with the file decide (see hints.py), or the caller has to.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cls import models
from cls.errors import UserError
from cls.models import registry
from cls.models.registry import Variant
from cls.weights import card as cards
from cls.weights import hints as hinting
from cls.weights import index, naming
from cls.weights.convert import some
from cls.weights.hints import Hints

BACKBONE = 'backbone'
_TRIED = 16  # number of variants whose names are compared, at least
_LEAST = 0.3  # the least common part of the shapes
_OF_TRAINING = ('num_classes', 'dtype', 'aux_head', 'bn_momentum')
_SHOWN = 3  # number of the nearest variants that an error names


@dataclasses.dataclass(frozen=True)
class Match:
    """A variant that the tensors of a file fill.

    Attributes:
      variant: its name.
      family: the package with the names in the file.
      num_classes: the number of outputs; 0 without a classifier.
      evidence: a text on the reasons.
      fields: the fields of the module that the file determines: `aux_head` as False without
        auxiliary heads, and those that the package has otherwise.
      channels: the channels of the images.
      part: BACKBONE if the file has no classifier, or has other tensors too.
      left_out: the names of tensors that are not part of the network.
      alike: networks of packages that have the same tensors and are not here.
      refusal: a text on the package's network if it is not here, see `naming.Naming.refusal`.
    """

    variant: str
    family: str
    num_classes: int
    evidence: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    channels: int = 3
    part: str = ''
    left_out: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    refusal: str = ''

    def __str__(self) -> str:
        classes = f'{self.num_classes:,} classes' if self.num_classes else 'no classifier'
        return f"{self.variant}, {self.family}'s names, {classes}"


def recognize(
    state_dict: Mapping[str, Any], hints: Hints | Mapping[str, Any] | None = None
) -> list[Match]:
    """Returns the variants that a file's tensors fill; several if nothing tells them apart.

    If there are none, they are variants without the classifier or with further tensors in the file,
    as in a detector (`Match.part`). An empty list means a network that is not here.

    Args:
      state_dict: name -> array, or anything with a shape and a type.
      hints: the metadata of the file; a mapping has the fields of `Hints`, or is a config.json.

    Raises:
      UserError: a hint names a network that is not here, or that has other tensors; or the names
        are those of a network that is not here.
    """
    hints = Hints.make(hints)
    tensors = {name: _empty(value) for name, value in state_dict.items()}
    matches: dict[tuple, Match] = {}
    parts: dict[tuple, Match] = {}
    converted: set[tuple] = set()  # by a table of another package, which may pass these names on
    for name in _candidates(tensors):
        for naming_ in naming.namings(models.variant(name)):
            match = _match(tensors, name, naming_)
            if match is not None:
                group, key = parts if match.part else matches, (match.variant, repr(match.fields))
                table = naming_.table
                if key not in group and table is not None and (table.renames or table.tensors):
                    converted.add(key)
                group.setdefault(key, match)
    matches, parts = (_own(group, converted) for group in (matches, parts))
    if not matches and not parts and (reason := hinting.absent(hints)):
        raise UserError(reason)
    whole = [match for match in parts.values() if not match.left_out]
    chosen = list(matches.values()) or whole or _largest(list(parts.values()))
    if refused := [match.refusal for match in chosen if match.refusal]:
        raise UserError(f'the tensors are those of {refused[0]}')
    return _distinct(_published(_told_apart(chosen, hints)), hints)


def _own(matches: dict[tuple, Match], converted: set[tuple]) -> dict[tuple, Match]:
    """Returns the matches without the converted ones of other packages than those that fit."""
    packages = {match.family for key, match in matches.items() if key not in converted}
    own = {
        key: match
        for key, match in matches.items()
        if key not in converted or match.family in packages
    }
    return own or matches


def _empty(value: Any) -> np.ndarray:
    """Returns an array of zeros of a shape without memory; an array of integers unchanged.

    Functions of tables compute with the tensors, and recognition does not need the values.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in 'iub':
        return value
    return np.broadcast_to(np.zeros((), np.float32), tuple(value.shape))


def _candidates(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the variants nearest by their shapes, and those that may be a part of the file."""
    shared = _shared(tensors)
    similar = sorted(shared, key=lambda name: -shared[name].similarity)
    least = shared[similar[min(_TRIED, len(similar)) - 1]].similarity
    chosen = [name for name in similar if shared[name].similarity >= max(_LEAST, least)]
    inside = [name for name, counts in shared.items() if counts.common >= 0.97 * counts.size]
    inside.sort(key=lambda name: -shared[name].size)
    return list(dict.fromkeys((*chosen, *inside[:4])))


@dataclasses.dataclass(frozen=True)
class _Shared:
    """Numbers of tensors: of the body of a variant, and those with a shape of the file's."""

    size: int
    common: int
    similarity: float


def _shared(tensors: Mapping[str, np.ndarray]) -> dict[str, _Shared]:
    """Returns variant -> the part of its shapes that a file has too."""
    own = index.count(tuple(value.shape) for value in tensors.values())
    total, result = sum(own.values()), {}
    for name, counts in index.counts().items():
        common = sum(min(number, own[shape]) for shape, number in counts.items() if shape in own)
        size = sum(counts.values())
        result[name] = _Shared(size, common, common / max(1, total + size - common))
    return result


def _match(tensors: Mapping[str, np.ndarray], name: str, names: naming.Naming) -> Match | None:
    """Returns the match of a variant by the names of a package, None if they do not fit."""
    variant, wanted = models.variant(name), index.tensors(name)
    if not _may_fit(tensors, variant, names, wanted.all):
        return None
    try:
        named = naming.named(tensors, variant, names, wanted.all)
    except UserError:
        return None
    differs = naming.difference(named.tensors, wanted.all)
    missing, wrong = {*differs.missing}, {*differs.missing, *differs.unlike}
    if wrong & (wanted.body.keys() - wanted.hidden):
        return None
    modules = {tensor.partition('.')[0] for tensor in wanted.body}
    if any(tensor.partition('.')[0] in modules for tensor in differs.unused):
        return None  # a larger network
    aux = wanted.aux and not missing & wanted.aux.keys()
    if not aux and not wanted.aux.keys() <= missing:
        return None  # a part of the auxiliary heads
    hidden = not wrong & wanted.hidden
    head = hidden and not wrong & wanted.head.keys()
    whole = head and not differs.unused and not differs.unlike
    fields = names.fields | ({'aux_head': False} if wanted.aux and not aux else {})
    left_out = (*named.left_out, *differs.unused)
    count = len(wanted.body) - (0 if hidden else len(wanted.hidden))
    count += len(wanted.head) if head else 0
    evidence = f'names and shapes of {count} tensors'
    if differs.channels != 3:
        evidence += f' (images of {differs.channels} channels)'
    return Match(
        name,
        names.family,
        differs.classes if head else 0,
        evidence,
        fields,
        differs.channels,
        '' if whole else BACKBONE,
        left_out if not whole else tuple(named.left_out),
        cards.LOOKALIKES.get(name, ()) if names.table is None else (),
        names.refusal(name),
    )


def _may_fit(
    tensors: Mapping[str, np.ndarray],
    variant: Variant,
    names: naming.Naming,
    wanted: Mapping[str, Any],
) -> bool:
    """Returns whether some of a sample of the file's names become names of the variant."""
    table = names.table
    if table is not None and table.tensors is not None:
        return True
    renames = variant.old_names if table is None else table.renames
    pairs = renames(variant) if callable(renames) else renames
    every = [name for name in tensors if not name.endswith(naming.COUNTER)]
    for name in every[:: max(1, len(every) // 24)]:
        parts = name.split('.')
        for start in range(min(len(parts), 7)):
            if naming.renamed('.'.join(parts[start:]), pairs) in wanted:
                return True
    return False


def _largest(parts: list[Match]) -> list[Match]:
    """Returns the matches of the largest part of the file."""
    least = min((len(match.left_out) for match in parts), default=0)
    return [match for match in parts if len(match.left_out) == least]


# ---------------------------------------------------------------------- telling matches apart


def _told_apart(matches: list[Match], hints: Hints) -> list[Match]:
    """Returns the matches that the hints mean; all of them if no hint tells."""
    for word in hinting.words(hints) if matches else ():
        meanings = [hinting.meaning(word, match.variant, match.family) for match in matches]
        meant = [match for match, (means, _) in zip(matches, meanings, strict=True) if means]
        if meant:
            reason = f'{word.source} {word.text}'
            return [
                dataclasses.replace(match, evidence=f'{match.evidence}; {reason}', alike=())
                for match in meant
            ]
        if absent := next((reason for _, reason in meanings if reason), ''):
            raise UserError(f'{word.source} says that this is {absent}, which is not here')
        if word.strict and any(means is False for means, _ in meanings):
            raise UserError(
                f'{word.source} is {word.text}, but the tensors are those of '
                f'{" or ".join(dict.fromkeys(match.variant for match in matches))}'
            )
    return matches


def _published(matches: list[Match]) -> list[Match]:
    """Returns the matches with the names of a package, all of them if there are none."""
    of_packages = [match for match in matches if match.family != 'cls']
    left = ', '.join(match.variant for match in matches if match.family == 'cls')
    if not of_packages or not left:
        return matches
    reason = f'not {left}, which no package has'
    return [
        dataclasses.replace(match, evidence=f'{match.evidence}; {reason}') for match in of_packages
    ]


def _distinct(matches: list[Match], hints: Hints) -> list[Match]:
    """Returns one match of those that compute the same."""
    groups: dict[str, list[Match]] = {}
    for match in matches:
        groups.setdefault(repr(_computing(match)), []).append(match)
    texts = [word.text for word in hinting.words(hints)]

    def order(match: Match) -> tuple:
        default = getattr(models.create(match.variant), 'num_classes', 0)
        other = default != match.num_classes
        return match.variant not in texts, other, len(match.variant)

    return [min(group, key=order) for group in groups.values()]


def differences(matches: list[Match]) -> str:
    """Returns a text on the differing fields of the modules of matches."""
    values = [_computing(match) for match in matches]
    names = [
        name
        for name in dict.fromkeys(name for each in values for name in each)
        if len({repr(each.get(name)) for each in values}) > 1
    ]
    return '; '.join(
        f'--variant {match.variant} has '
        + ', '.join(f'{name}={each.get(name)!r:.40}' for name in names if name in each)
        for match, each in zip(matches, values, strict=True)
    )


def _computing(match: Match) -> dict[str, Any]:
    """Returns the fields of a match's module that its numbers in evaluation depend on."""
    model = models.create(match.variant, **match.fields)
    names = [name for name in registry.fields(type(model)) if name not in _OF_TRAINING]
    return {'module': type(model).__name__, **{name: getattr(model, name) for name in names}}


# ------------------------------------------------------------------------------- one match


def identify(
    state_dict: Mapping[str, Any],
    hints: Hints | Mapping[str, Any] | None = None,
    part: str = '',
) -> Match:
    """Returns the one variant that a file's tensors fill.

    Args:
      state_dict: name -> array.
      hints: as of `recognize`.
      part: BACKBONE to accept a network without its classifier, and further tensors.

    Raises:
      UserError: there is none, with the nearest variants; or several, with their differences; or
        only the backbone of one.
    """
    matches = recognize(state_dict, hints)
    if not matches:
        lacking = index.missing()
        stale = f'; not compared with {len(lacking)}, as {lacking[0]}: ' if lacking else ''
        stale += 'python -m cls.tools.models --recount' if lacking else ''
        raise UserError(f'not the tensors of a network here: {nearest(state_dict)}{stale}')
    if len(matches) > 1:
        raise UserError(
            f'the tensors are those of {len(matches)} networks that compute different numbers, and '
            f'no config.json or name of the file says of which: {differences(matches)}'
        )
    (match,) = matches
    if match.part and part != BACKBONE:
        more = f' and further tensors: {some(list(match.left_out))}' if match.left_out else ''
        head = '' if match.num_classes else ' without its classifier'
        raise UserError(
            f'the tensors are those of {match.variant}{head}{more}; `cls import --part '
            'backbone` takes its body, to fine-tune it'
        )
    return match


def contradict(variant: str, family: str, hints: Hints) -> None:
    """Raises UserError if hints mean a network with the same tensors in place of a variant."""
    from cls.weights.fitting import same_tensors

    for word in hinting.words(hints):
        means, reason = hinting.meaning(word, variant, family)
        if means:
            return
        if reason:
            raise UserError(f'{word.source} says that this is {reason}, which is not here')
        for other in same_tensors(variant) if means is False else ():
            if hinting.meaning(word, other, family)[0]:
                raise UserError(
                    f'{word.source} says that this is {other}, not {variant}: it has the same '
                    'tensors and computes something else'
                )


def nearest(state_dict: Mapping[str, Any]) -> str:
    """Returns a text on the nearest variants, and the differences of the tensors from theirs."""
    tensors = {name: _empty(value) for name, value in state_dict.items()}
    shared = _shared(tensors)
    similar = sorted(shared, key=lambda name: -shared[name].similarity)
    around = sorted(shared, key=lambda name: (-shared[name].common, shared[name].size))
    ranked = dict.fromkeys((*similar[:_TRIED], *around[: _TRIED // 2]))
    scored = [(_wrong(tensors, name), name) for name in ranked]
    scored.sort(key=lambda entry: entry[0][0])
    return '; '.join(f'{name} {text}' for (_, text), name in scored[:_SHOWN])


def _wrong(tensors: Mapping[str, np.ndarray], name: str) -> tuple[float, str]:
    """Returns (a distance of tensors from those of a variant, a text on the differences)."""
    variant, wanted = models.variant(name), index.tensors(name)
    required = {**wanted.body, **wanted.head}
    try:
        named = naming.best(tensors, variant, wanted.all, wanted.aux)
    except UserError as error:
        return float('inf'), str(error)
    differs = naming.difference(named.tensors, wanted.all)
    missing = [tensor for tensor in differs.missing if tensor not in wanted.aux]
    common = len(required) - len(missing) - len(differs.unlike)
    if not missing and not differs.unlike and not differs.unused:
        return 0.0, 'fits'
    if common > len(required) / 4 or not differs.unused:
        parts = (
            ('lacks', missing),
            ('has no place for', list(differs.unused)),
            ('has other shapes of', list(differs.unlike)),
        )
        text = ', '.join(f'{verb} {_few(names)}' for verb, names in parts if names)
        if not differs.unused and not differs.unlike:
            return len(missing) / len(required) - 1, f'(a part of it: the file {text})'
        return differs.wrong / len(required), f'(the file {text})'
    own = index.count(tuple(value.shape) for value in tensors.values())
    counts = index.count(wanted.body.values())
    shared = sum(min(number, own[shape]) for shape, number in counts.items())
    return 1e3 - shared / max(1, len(required)), (
        f'(under other names; {shared} of its {len(required)} tensors have shapes of the file)'
    )


def _few(names: list[str]) -> str:
    more = ', ...' if len(names) > 2 else ''
    return f'{len(names)} ({", ".join(names[:2])}{more})'
