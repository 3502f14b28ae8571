"""Networks that compile in no time: one cannot bear dark pictures, the other is of patches."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shapjax.backbones.layers import relu
from shapjax.backbones.network import Network
from shapjax.backbones.record import Backbone, Preprocessing
from shapjax.backbones.transformer import Shape
from shapjax.backbones.vit import VisionTransformer


class Toy(Network):
    """Channels mixed at random, then a root that is NaN where a cell is darker than 5%."""

    def __init__(self, side=4, channels=6):
        self.side = side
        self.mix = nnx.Param(jax.random.normal(jax.random.key(0), (3, channels)))

    def stages(self):
        """Both layers."""
        return (("pool", self._pool), ("root", self._root), ("mix", self._mix))

    def head(self, features):
        """Nothing."""
        return features

    def _pool(self, x):
        batch, size = x.shape[:2]
        cell = size // self.side
        return x.reshape(batch, self.side, cell, self.side, cell, 3).mean(axis=(2, 4))

    def _root(self, x):
        return jnp.sqrt(x)

    def _mix(self, x):
        return relu(x @ self.mix[...])


def toy(side=4):
    """The network as a backbone of 16 x 16 pictures."""
    record = Preprocessing(size=16, resize=16, mean=(0.05,) * 3, std=(1.0,) * 3)
    return Backbone("toy", record, *nnx.split(Toy(side)))


def toy_transformer():
    """Two blocks at random over the 2 x 2 patches of 16 x 16 pictures."""
    shape = Shape(width=12, depth=2, heads=2, epsilon=1e-6)
    network = nnx.eval_shape(
        lambda: VisionTransformer(shape, patch=8, grid=2, classes=None, rngs=nnx.Rngs(0))
    )
    graphdef, abstract = nnx.split(network)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), "f4"), abstract)
    record = Preprocessing(size=16, resize=16, mean=(0.5,) * 3, std=(0.3,) * 3)
    return Backbone("toy_transformer", record, graphdef, state)


def bright(count, seed=0):
    """Random pictures that the network can bear, uint8 [count, 16, 16, 3]."""
    return np.random.default_rng(seed).integers(60, 256, (count, 16, 16, 3), np.uint8)
