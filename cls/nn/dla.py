"""Deep layer aggregation (Yu et al. 2018, 1707.06484): trees of blocks, as Res2Net uses them.

Names are the authors' and timm's: tree1, tree2, project.0, project.1, root.conv, root.bn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn.pool import max_pool
from cls.nn.residual import Projection
from cls.nn.units import ConvNorm


class Tree(nn.Module):
    """A binary tree of `2 ** levels` blocks with aggregated outputs (section 3, figure 3).

    A root concatenates the outputs of its two blocks and of all earlier subtrees on the path, and
    projects them to `features` channels. `block(features, strides, name=)` returns a residual
    block, a module that takes its input and its shortcut.
    """

    levels: int
    features: int
    strides: int
    block: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    level_root: bool = False  # whether the input of the tree is aggregated too

    @nn.compact
    def __call__(self, x: jax.Array, children: Sequence[jax.Array] = ()) -> jax.Array:
        """Maps x (N, H, W, C), and the outputs of earlier trees, to (N, H', W', features)."""
        # In ceil mode, because the strided convolutions of the blocks round up.
        bottom = max_pool(x, self.strides, self.strides, ceil_mode=True) if self.strides > 1 else x
        children = (*children, bottom) if self.level_root else children
        if self.levels > 1:
            parts: dict[str, Any] = {'block': self.block, 'conv': self.conv, 'norm': self.norm}
            subtree = (self.levels - 1, self.features)
            first = Tree(*subtree, self.strides, **parts, name='tree1')(x)
            return Tree(*subtree, 1, **parts, name='tree2')(first, (*children, first))
        shortcut = bottom
        if x.shape[-1] != self.features:
            shortcut = Projection(self.features, 1, self.conv, self.norm, name='project')(bottom)
        first = self.block(self.features, self.strides, name='tree1')(x, shortcut)
        second = self.block(self.features, 1, name='tree2')(first, first)
        together = jnp.concatenate([second, first, *children], axis=-1)
        return ConvNorm(self.features, 1, self.conv, self.norm, name='root')(together)
