"""The lines that an import prints: its network, classes and images, each with its source."""

import math
from typing import Any

from ml_collections import ConfigDict

from cls import weights
from cls.data.classes import has_words, wnids, words
from cls.models.registry import Variant
from cls.weights import card as cards
from cls.weights import stem
from cls.weights.hub import Located
from cls.weights.images import Preparation
from cls.weights.recognition import Match


def classes(
    names: tuple[str, ...], field: str, source: str, config: ConfigDict
) -> tuple[tuple[str, ...], str]:
    """Returns (names of the outputs, () if unknown; a line on their order).

    Args:
      names: the names in a field of a file; () for none.
      field: the name of the field.
      source: the name of the file.
      config: the config of the run.
    """
    count = config.model.num_classes
    if names:
        shown = ', '.join(map(_with_words, names[:3])) + (', ...' if count > 3 else '')
        return names, f'Classes: {count:,} names of {source} ({field}), in its order: {shown}'
    if config.data.name == 'tfds:imagenet2012' and count == 1000:
        return wnids(), (
            "Classes: nothing names the 1,000 outputs; assumed: ImageNet's, in the order of the "
            f'sorted WordNet ids ({", ".join(map(_with_words, wnids()[:3]))}, ...).'
        )
    return (), (
        f'Classes: nothing names the {count:,} outputs; assumed: the order of the data set '
        f'in evaluation (of a folder: its classes in {config.data.class_order} order). If training '
        'had another order, put classes.json, a list of the names in the order of the outputs, '
        'into the run folder.'
    )


def _with_words(label: str) -> str:
    """Returns 'n01440764 tench' for a WordNet id of ImageNet, else the label itself."""
    return f'{label} {words(label)}' if has_words(label) else label


def of_network(
    variant: Variant,
    located: Located,
    card: dict[str, Any],
    fitted: weights.Fitted,
    match: Match | None,
) -> str:
    """Returns a line on the network of the weights, the family of their names, and the evidence."""
    classes = fitted.fields.get('num_classes', 0)
    text = f"Network: {variant.name}, {fitted.family}'s names, "
    text += f'{classes:,} classes' if classes else 'no classifier'
    word = cards.word(located.card)
    if word:
        return f'{text}; config.json calls it {word}.'
    if match:
        alike = f' The tensors also fit, and are not here: {", ".join(match.alike)}.'
        return f'{text}; by {match.evidence}.{alike if match.alike else ""}'
    if word := cards.word(card):
        same = 'that is' if cards.plain_word(word) in cards.words(variant) else 'taken for'
        return f'{text}; {located.file.name} calls it {word!r}, {same} {variant.name}.'
    others = [*weights.same_tensors(variant.name), *cards.LOOKALIKES.get(variant.name, ())]
    if not others:
        return f'{text}, as --model says.'
    return (
        f'{text}; {located.file.name} names none; assumed: {variant.name}, as --model says. '
        f'The tensors also fit: {", ".join(others)}.'
    )


def of_entry(located: Located, checkpoint: weights.Checkpoint) -> list[str]:
    """Returns lines on the chosen set of weights, for a file with several."""
    if not checkpoint.unused:
        return []
    line = (
        f'Weights: {checkpoint.entry!r} of {located.file.name}; --entry chooses another: '
        f'{", ".join(checkpoint.unused[:6])}.'
    )
    if averages := [name for name in checkpoint.averages if name != checkpoint.entry]:
        line += f' The file has an average of the weights too, {averages[0]!r}: --ema takes it.'
    return [line]


def of_fields(fitted: weights.Fitted, given: dict[str, str]) -> list[str]:
    """Returns lines on auxiliary heads, and on tensors that are left out."""
    lines = []
    if fitted.fields.get('aux_head') is False:
        lines.append('The file has no auxiliary heads: model.aux_head=False.')
    if fitted.drawn:
        lines.append(
            f'The file has no auxiliary heads: drawn, as model.aux_head asks for them '
            f'({len(fitted.drawn)} tensors, as {fitted.drawn[0]}).'
        )
    if fitted.left_out:
        lines.append(f'Left out, as no part of the network: {", ".join(fitted.left_out[:6])}')
        lines[-1] += f', and {len(fitted.left_out) - 6} more.' if fitted.left_out[6:] else '.'
    return lines


def of_images(config: ConfigDict, prepared: Preparation, given: dict[str, str]) -> str:
    """Returns a line on the preparation of images, with the source of each field."""
    fields = {
        'image_size': 'size',
        'eval_resize': 'crop',
        'interpolation': 'interpolation',
        'mean': 'mean',
        'std': 'std',
    }
    by_source: dict[str, list[str]] = {}
    for field, known in fields.items():
        source = '--config' if f'data.{field}' in given else prepared.known_from[known]
        value = config.data[field]
        if known == 'crop' and source != '--config':
            value = f'{value} (crop_pct {prepared.crop:g})'
        by_source.setdefault(source, []).append(f'{field} {value}')
    line = '; '.join(f'{", ".join(parts)} (from {source})' for source, parts in by_source.items())
    if prepared.other:
        size, crop = prepared.other
        line += (
            f'. The card has another size to evaluate at: --config.data.eval_size={size} '
            f'--config.data.eval_resize={math.floor(size / crop)}'
        )
    return f'Images: {line}.' + (f' {prepared.assumed}' if prepared.assumed else '')


def of_channels(fitted: weights.Fitted, prepared: Preparation) -> list[str]:
    """Returns a line on images that are not of three channels."""
    channels = fitted.channels
    if channels == stem.COLORS:
        return []
    line = f'Channels: the first convolution takes {channels}, not three: images of {channels}.'
    if len(prepared.mean) == 1:
        line += ' Their mean and std are the averages of those of the colors.'
    return [line]


def of_colors(prepared: Preparation, bgr: bool) -> list[str]:
    """Returns a line on weights whose first convolution was reversed."""
    if not bgr:
        return []
    title = prepared.row.title if prepared.row else prepared.known_from['mean']
    title = title if prepared.space == 'BGR' else '--bgr says that the file'
    return [f'Colors: {title} expects BGR; its first convolution is reversed, to RGB.']
