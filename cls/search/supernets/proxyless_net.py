"""ProxylessNAS's supernet: places with candidate blocks, some of which are computed."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cls.nn import init, inverted
from cls.nn.conv import Conv
from cls.nn.inverted import Genotype, InvertedResidual
from cls.nn.norm import BatchNorm
from cls.search.spaces.proxylessnas import ProxylessNAS as Space
from cls.search.supernets.base import ALPHA


class Place(nn.Module):
    """The candidate blocks of a place: inverted residuals, and none, whose output is zeros.

    A shortcut, if the place has one, is added to the output.
    """

    run: inverted.Run
    candidates: tuple[tuple[int, int], ...]  # windows and expansions
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    def setup(self) -> None:
        self.k = {
            f'{window}_e{expansion}': InvertedResidual(
                self.run.features,
                window,
                self.run.strides,
                expansion,
                self.conv,
                self.norm,
                skip=False,
            )
            for window, expansion in self.candidates
        }

    def __call__(
        self, x: jax.Array, paths: jax.Array | None, gates: jax.Array | None = None
    ) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features).

        Args:
          x: images.
          paths: (K,) indices of candidates to compute; None: all.
          gates: (K,) factors of their outputs in a sum; None: only the first path.
        """
        branches: list[Any] = [lambda place, x, name=name: place.k[name](x) for name in self.k]
        if self.run.skip:
            branches.append(lambda place, x: jnp.zeros_like(x))
        shortcut = x if self.run.skip else 0
        if self.is_initializing() or paths is None:
            outs = [branch(self, x) for branch in branches]
            gates = jnp.ones(len(outs)) if gates is None else gates
            parts = [gate.astype(x.dtype) * out for gate, out in zip(gates, outs, strict=False)]
            total: Any = sum(parts)
            return total + shortcut
        if gates is None:
            return nn.switch(paths[0], branches, self, x) + shortcut

        def gated(place, carry, path, gate):
            return carry, gate.astype(x.dtype) * nn.switch(path, branches, place, x)

        over = nn.scan(  # over paths, to compile the candidates once
            gated,
            variable_broadcast=('params', 'kept'),
            variable_carry='batch_stats',
            split_rngs={'params': False},
        )
        return over(self, (), paths, gates)[1].sum(0) + shortcut


class Net(nn.Module):
    """The supernet: stem, first block, places for blocks, head and classifier, as its networks."""

    stem_features: int = 32
    first_features: int = 16
    widths: tuple[int, ...] = Space.widths
    repeats: tuple[int, ...] = Space.repeats
    strides: tuple[int, ...] = Space.strides
    windows: tuple[int, ...] = Space.windows
    expansions: tuple[int, ...] = Space.expansions
    head_features: int = 1280
    dropout_rate: float = 0.0
    num_classes: int = 1000
    bn_group: int = 0
    bn_momentum: float = 0.9
    dtype: Any = jnp.float32
    alpha_init: Any = init.Normal(1e-3)

    @property
    def space(self) -> Space:
        """The space of its networks."""
        shape = (self.widths, self.repeats, self.strides, self.windows, self.expansions)
        return Space(self.first_features, *map(tuple, shape))

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        paths: jax.Array | None = None,
        gates: jax.Array | None = None,
    ) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits.

        Args:
          images: normalized.
          train: whether norms use the statistics of the batch.
          paths: (places, K) candidates to compute; None: all if there are gates, else the most
            probable one.
          gates: (places, K) factors of their outputs; None: K is 1.
        """
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(
            BatchNorm,
            train,
            momentum=self.bn_momentum,
            epsilon=1e-3,
            group=self.bn_group,
            dtype=self.dtype,
        )
        space = self.space
        alpha = self.param(ALPHA, self.alpha_init, (len(space.counts), space.none + 1))
        if paths is None and gates is None:
            paths = masked(alpha, space.counts).argmax(-1)[:, None]
        x = inverted.stem(self, images, self.stem_features, conv, norm, 'relu6')
        first = InvertedResidual(self.first_features, 3, 1, 1, conv, norm, name='blocks.0.0')
        x = first(x)
        for i, run in enumerate(space.places):
            place = Place(run, space.candidates, conv, norm, name=f'places.{i}')
            x = place(x, None if paths is None else paths[i], None if gates is None else gates[i])
        return inverted.head(self, x, self.head_features, conv, norm, 'relu6', train)

    def genotype(self, alpha: jax.Array) -> Genotype:
        """Returns the genotype of the most probable paths."""
        paths = np.asarray(masked(alpha, self.space.counts)).argmax(-1)
        return self.space.genotype(tuple(paths.tolist()))


def masked(alpha: jax.Array, counts: tuple[int, ...]) -> jax.Array:
    """Returns alpha with -inf for choices that a place does not have."""
    valid = np.arange(alpha.shape[-1]) < np.array(counts)[:, None]
    return jnp.where(valid, alpha, -jnp.inf)
