"""Update rules: config.optim as an Optax optimizer.

sgd, rmsprop, adam, adamw and lamb are here, with the fields of config.optim as their arguments.
cls.steps.optax_rules has all others, with the arguments of config.optim.args.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cls.errors import nearest, refuse
from cls.steps import freeze, norms, optax_rules, plateau, wrappers
from cls.steps.state import initial_opt_state


@dataclasses.dataclass(frozen=True)
class OptimSpec:
    """The fields of config.optim; cls/config/defaults.py documents them."""

    name: str = 'sgd'
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    decay: float = 0.9
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_mask: str = 'kernels'
    bias_lr_mult: float = 1.0
    body_lr_mult: float = 1.0
    freeze: str = ''
    clip_norm: float = 0.0
    clip_after_decay: bool = False
    args: tuple[tuple[str, Any], ...] = ()  # (name, value), of an optimizer of Optax
    agc: float = 0.0
    lookahead: int = 0
    lookahead_rate: float = 0.5
    layer_decay: float = 1.0

    @classmethod
    def from_config(cls, config: Any) -> 'OptimSpec':
        """Reads config.optim.

        Raises UserError that lists all mistakes: unknown names, fields that contradict each other,
        a pattern that is not a regular expression.
        """
        fields = config.optim
        values: dict[str, Any]
        values = {field.name: getattr(fields, field.name) for field in dataclasses.fields(cls)}
        values['args'] = tuple(sorted(fields.args.to_dict().items()))
        spec = cls(**values)
        refuse(spec._mistakes())
        return spec

    def notes(self) -> Iterator[str]:
        """Yields lines on an optimizer that a reader of its paper would not expect."""
        if not self.is_own and self.name in optax_rules.DEPARTS:
            yield (
                f'warning: optax.{self.name} departs from its paper: '
                f'{optax_rules.DEPARTS[self.name]}.'
            )
        if self.lookahead:
            yield (
                'lookahead: evaluations between two updates of the slow weights, each '
                f'{self.lookahead} steps, are of the fast weights.'
            )

    @property
    def is_own(self) -> bool:
        """Whether the optimizer takes the fields of config.optim, and not config.optim.args."""
        return self.name in (*_COUPLED, *_DECOUPLED)

    @property
    def needs_head(self) -> bool:
        """Whether `make_optimizer` needs the paths of the head."""
        return self.body_lr_mult != 1 or bool(self.agc) or self.name == 'muon'

    def _mistakes(self) -> Iterator[str]:
        if self.is_own:
            yield from self._own_mistakes()
        elif self.name in optax_rules.factories():
            yield from self._optax_mistakes()
        else:
            yield self._unknown()
        if self.decay_mask not in _MASKS:
            yield (
                f'config.optim.decay_mask is {self.decay_mask!r}; known: {", ".join(_MASKS)}.'
                f'{nearest(self.decay_mask, _MASKS)}'
            )
        if self.clip_after_decay and self._is_decoupled():
            yield (
                f'config.optim.clip_after_decay is set, but {self.name} keeps weight decay out of '
                f'the gradient; unset it, or use one of {", ".join(_COUPLED)}.'
            )
        try:
            re.compile(self.freeze)
        except re.error as error:
            yield (
                f'config.optim.freeze is {self.freeze!r}: expected a regular expression ({error}).'
            )

    def _is_decoupled(self) -> bool:
        known = not self.is_own and self.name in optax_rules.factories()
        return self.name in _DECOUPLED or (known and optax_rules.decays(self.name))

    def _unknown(self) -> str:
        if reason := optax_rules.UNFIT.get(self.name):
            return f'config.optim.name is {self.name!r}: no run can use it, as {reason}.'
        own = (*_COUPLED, *_DECOUPLED)
        return (
            f'config.optim.name is {self.name!r}; known: {", ".join(own)}, and the optimizers of '
            f'Optax.{nearest(self.name, (*own, *optax_rules.factories()))}'
        )

    def _own_mistakes(self) -> Iterator[str]:
        for name, _ in self.args:
            field = name if name in _FIELDS else 'FIELD'
            yield (
                f'config.optim.args.{name} is set, but the arguments of {self.name} are fields of '
                f'config.optim: set config.optim.{field}.'
            )

    def _optax_mistakes(self) -> Iterator[str]:
        args = dict(self.args)
        found = list(optax_rules.mistakes(self.name, args, self.weight_decay, self.decay_mask))
        yield from found
        for field in optax_rules.arguments(self.name):
            value = getattr(self, field, None) if field in _FIELDS else None
            if value not in (None, getattr(OptimSpec, field, None)) and field not in args:
                yield (
                    f'config.optim.{field} is {value!r}, but {self.name} takes its arguments from '
                    f'config.optim.args: set config.optim.args.{field}, and config.optim.{field} '
                    f'to its default {getattr(OptimSpec, field)!r}.'
                )
        if not found and (failure := optax_rules.failure(self.name, args)):
            yield failure


def register(name: str) -> Callable[[optax_rules.Factory], optax_rules.Factory]:
    """Returns a decorator that adds an optimizer by name. Raises UserError if the name is taken.

    The function takes learning_rate, a schedule, and further arguments by name, and returns an
    Optax transformation. With parameters weight_decay and mask it has a weight decay of its own.
    """
    return optax_rules.register(name, name in (*_COUPLED, *_DECOUPLED))


def is_known(name: str) -> bool:
    """Returns whether an optimizer has a name."""
    return name in (*_COUPLED, *_DECOUPLED, *optax_rules.UNFIT, *optax_rules.factories())


# Fields that are arguments of the optimizers of this module.
_FIELDS = ('momentum', 'nesterov', 'decay', 'b1', 'b2', 'eps')


def make_optimizer(
    spec: OptimSpec,
    schedule: optax.Schedule,
    params: Any,
    *,
    head: Set[str] = frozenset(),
    depthwise: Set[str] = frozenset(),
    layers: Mapping[str, int] | None = None,
    on_plateau: bool = False,
) -> optax.GradientTransformation:
    """Returns the update rule; its update needs the parameters: tx.update(grads, state, params).

    In order: the gradient is clipped by its global norm; for sgd, rmsprop and adam the L2 term of
    the weights, weight_decay * w, is added to it (the gradient of weight_decay / 2 * |w|^2); then
    the rule is applied. With clip_after_decay the first two are swapped, as in TF-Slim, where the
    L2 term is part of the loss. adamw and lamb decay the weights outside the gradient, scaled by
    the learning rate. An optimizer of Optax with a weight decay of its own takes weight_decay, and
    any other one has the L2 term.

    With `agc` the gradient is first clipped adaptively (Brock et al. 2021, section 4), except that
    of the head. With `lookahead` the rule moves fast weights (Zhang et al. 2019).

    The update is multiplied by body_lr_mult for all parameters outside the head, by bias_lr_mult
    for the biases of convolutions and linear layers, and by layer_decay for each layer between a
    parameter and the classifier, as by timm's param_groups_layer_decay: a learning rate for each
    group of parameters, as Caffe's lr_mult and PyTorch's parameter groups. A parameter that
    `freeze` matches gets no update and has no state, and its gradient does not count into the
    clipped norm.

    The state has only arrays, among them the number of updates, which determines the learning rate.
    If it is restored together with the parameters, training continues exactly.

    Args:
      spec: the fields of config.optim.
      schedule: the learning rate, see cls.steps.schedule.
      params: the tree of parameters, or of their shapes; only its structure and names are used,
        for the masks.
      head: paths of the head's parameters, see cls.models.registry.introspection; needed if
        spec.needs_head.
      depthwise: paths of the depthwise kernels, likewise; needed for the mask not_depthwise.
      layers: the layer of each parameter by its path, likewise; needed for layer_decay.
      on_plateau: whether evaluations scale the updates, see cls.steps.plateau.

    Raises:
      UserError: `freeze` matches no parameter, or all of them.
    """
    mask = _MASKS[spec.decay_mask](params, depthwise)
    if spec.is_own:
        rule = _rule(spec, schedule, mask)
    else:
        rule = _optax_rule(spec, schedule, mask, params, head)
    if spec.agc:
        rule = optax.chain(wrappers.adaptive_clip(spec.agc, params, head), rule)
    if spec.freeze:
        mask = freeze.frozen_params(spec.freeze, params)
        labels = jax.tree.map(lambda frozen: 'frozen' if frozen else 'trained', mask)
        rule = optax.partition({'trained': rule, 'frozen': optax.set_to_zero()}, labels)
    if {spec.body_lr_mult, spec.bias_lr_mult, spec.layer_decay} != {1}:
        rule = optax.chain(rule, _multiplied(spec, params, head, layers or {}))
    if on_plateau:
        rule = plateau.scaled(rule)
    if spec.lookahead:
        rule = wrappers.lookahead(rule, spec.lookahead, spec.lookahead_rate)
    return rule


def initial_state(spec: OptimSpec, params: Any) -> Any:
    """Returns the state of an optimizer before its first update; no learning rate is computed."""

    def no_rate(step):
        raise AssertionError('the state of an optimizer does not depend on the learning rate')

    return initial_opt_state(make_optimizer(spec, no_rate, params), params)


def _rule(spec: OptimSpec, schedule: optax.Schedule, mask: Any) -> optax.GradientTransformation:
    clip = norms.clip_by_global_norm(spec.clip_norm) if spec.clip_norm else optax.identity()
    if spec.name in _DECOUPLED:
        return optax.chain(clip, _DECOUPLED[spec.name](spec, schedule, mask))
    decay = optax.add_decayed_weights(spec.weight_decay, mask)
    before = (decay, clip) if spec.clip_after_decay else (clip, decay)
    return optax.chain(*before, _COUPLED[spec.name](spec, schedule))


def _optax_rule(
    spec: OptimSpec, schedule: optax.Schedule, mask: Any, params: Any, head: Set[str]
) -> optax.GradientTransformation:
    clip = norms.clip_by_global_norm(spec.clip_norm) if spec.clip_norm else optax.identity()
    decay = optax_rules.decays(spec.name)
    own = spec.weight_decay if decay else 0.0
    rule = optax_rules.make(spec.name, dict(spec.args), schedule, own, mask, params, head)
    if decay or not spec.weight_decay:
        return optax.chain(clip, rule)
    decayed = optax.add_decayed_weights(spec.weight_decay, mask)
    before = (decayed, clip) if spec.clip_after_decay else (clip, decayed)
    return optax.chain(*before, rule)


def _multiplied(
    spec: OptimSpec, params: Any, head: Set[str], layers: Mapping[str, int]
) -> optax.GradientTransformation:
    """Multiplies the update of each parameter by the factor of its learning rate."""
    last = max(layers.values(), default=0)

    def factor(path, with_kernel):
        name, bias = freeze.name(path), with_kernel and path[-1].key == 'bias'
        result = (spec.bias_lr_mult if bias else 1.0) * (1.0 if name in head else spec.body_lr_mult)
        return result * spec.layer_decay ** (last - layers.get(name, last))

    factors = jax.tree.map_with_path(factor, _with_kernels(params))
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))


def _sgd(spec, lr):
    """v = momentum * v + g; w -= lr * v, or with Nesterov lr * (g + momentum * v).

    As in torch.optim.SGD, the learning rate is outside v, so a drop takes effect immediately.
    """
    return optax.sgd(lr, spec.momentum or None, spec.nesterov)


def _rmsprop(spec, lr):
    """s = decay * s + (1 - decay) * g^2; v = momentum * v + lr * g / sqrt(s + eps); w -= v.

    As in tf.train.RMSPropOptimizer: s starts at one, eps is inside the root, and v keeps the
    learning rates of the past.
    """
    return optax.rmsprop(
        lr,
        decay=spec.decay,
        eps=spec.eps,
        initial_scale=1.0,
        eps_in_sqrt=True,
        momentum=spec.momentum or None,
    )


def _adam(spec, lr):
    """Kingma & Ba (2015), algorithm 1; L2 is in the gradient, as in torch.optim.Adam."""
    return optax.adam(lr, spec.b1, spec.b2, spec.eps)


def _adamw(spec, lr, mask):
    """Loshchilov & Hutter (2019); the decay is lr * weight_decay * w, as in torch.optim.AdamW."""
    return optax.adamw(lr, spec.b1, spec.b2, spec.eps, weight_decay=spec.weight_decay, mask=mask)


def _lamb(spec, lr, mask):
    """You et al. (2020), algorithm 2 with phi(z) = z; every leaf is a layer, masked or not.

    A leaf whose norm, or whose update's norm, is zero is not rescaled.
    """
    return optax.lamb(lr, spec.b1, spec.b2, spec.eps, weight_decay=spec.weight_decay, mask=mask)


_COUPLED = {'sgd': _sgd, 'rmsprop': _rmsprop, 'adam': _adam}
_DECOUPLED = {'adamw': _adamw, 'lamb': _lamb}


# ------------------------------------------------------------------------------ decay masks


def _kernels(params, depthwise):
    """True at leaves named 'kernel': not at biases, nor at scales and biases of norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], 'key', None) == 'kernel', params
    )


def _all(params, depthwise):
    return jax.tree.map(lambda _: True, params)


def _not_norms(params, depthwise):
    """True at kernels and their biases: not at norms, nor at the slopes of PReLU."""
    return _with_kernels(params)


def _not_depthwise(params, depthwise):
    """True at all kernels except depthwise ones (Howard et al. 2017, section 3.1)."""
    return jax.tree.map_with_path(
        lambda path, _: path[-1].key == 'kernel' and freeze.name(path) not in depthwise, params
    )


def _with_kernels(params):
    """True at all parameters of modules that have a kernel."""
    has_kernel = 'kernel' in params
    return {
        key: _with_kernels(below) if isinstance(below, Mapping) else has_kernel
        for key, below in params.items()
    }


_MASKS = {
    'kernels': _kernels,
    'all': _all,
    'not_norms': _not_norms,
    'not_depthwise': _not_depthwise,
}
