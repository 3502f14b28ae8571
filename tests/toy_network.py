"""A network of two layers that compiles in no time and cannot bear dark pictures."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from shapjax.backbones.layers import relu
from shapjax.backbones.network import Network
from shapjax.backbones.record import Backbone, Preprocessing


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


def bright(count, seed=0):
    """Random pictures that the network can bear, uint8 [count, 16, 16, 3]."""
    return np.random.default_rng(seed).integers(60, 256, (count, 16, 16, 3), np.uint8)
