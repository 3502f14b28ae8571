"""Winograd's 3x3 convolution against the definition, and where it is taken."""

import jax
import numpy as np
import pytest
from flax import nnx
from test_backbones import convolve

from shapjax.backbones.layers import Conv
from shapjax.backbones.winograd import convolve3x3, pays


@pytest.mark.parametrize(
    ("batch", "height", "width"), [(1, 4, 4), (3, 7, 5), (4, 56, 56), (6, 33, 64), (2, 1, 2)]
)
def test_winograd_is_the_convolution(batch, height, width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, height, width, 5)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 5, 4)).astype(np.float32)
    expected = convolve(
        x.transpose(0, 3, 1, 2).astype(float), kernel.transpose(3, 2, 0, 1), np.zeros(4), padding=1
    )
    result = np.asarray(jax.jit(convolve3x3)(x, kernel)).transpose(0, 3, 1, 2)
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


def test_convolutions_that_pay_run_by_winograd():
    conv = Conv(128, 128, (3, 3), padding=1, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (20, 8, 8, 128))
    assert pays(x.shape, conv.kernel.shape)
    np.testing.assert_allclose(conv(x), nnx.Conv.__call__(conv, x), atol=1e-5)
    # A few pictures of 7 x 7 do not: their tiles overhang, and the kernel's transform costs most.
    assert not pays((8, 7, 7, 512), (3, 3, 512, 512))
    program = jax.jit(lambda x: conv(x)).lower(x).as_text()
    assert ("convolution" in program) == (jax.default_backend() != "cpu")
