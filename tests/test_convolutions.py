"""Convolutions that take another way on CPU, against the definition, and where they are taken."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_backbones import convolve

from shapjax.backbones.layers import Conv, relu, relu6
from shapjax.backbones.winograd import convolve3x3, pays

FLAX = nnx.Conv.__call__


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


@pytest.mark.parametrize(
    ("side", "stride", "padding", "dtype"),
    [(3, 1, 1, "float32"), (3, 2, "SAME", "float32"), (7, 1, 3, "float32"), (3, 2, 1, "bfloat16")],
)
def test_depthwise_convolutions_run_as_shifted_sums(side, stride, padding, dtype):
    """Against Flax's own, in value and gradient; on CPU no convolution is left in the program."""
    options = {"padding": padding, "feature_group_count": 6, "rngs": nnx.Rngs(0), "dtype": dtype}
    conv = Conv(6, 6, (side, side), stride, param_dtype=dtype, **options)
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 6), dtype)
    exact = 0.1 if dtype == "bfloat16" else 1e-5

    @functools.partial(jax.jit, static_argnums=1)
    def value_and_gradient(x, call):
        return call(conv, x), jax.grad(lambda x: (call(conv, x) ** 2).sum())(x)

    both = zip(*(value_and_gradient(x, call) for call in (Conv.__call__, FLAX)), strict=True)
    for ours, theirs in both:
        ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= exact * np.abs(theirs).max()
    program = jax.jit(lambda x: conv(x)).lower(x).as_text()
    assert ("convolution" in program) == (jax.default_backend() != "cpu")


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_bfloat16_is_summed_in_float32_and_rounded_once(side, stride):
    """Against the definition in float64, of the same bfloat16 numbers."""
    options = {"padding": side // 2, "use_bias": False, "rngs": nnx.Rngs(0)}
    conv = Conv(128, 130, (side, side), stride, param_dtype=jnp.bfloat16, **options)
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 128), jnp.bfloat16)
    kernel = np.asarray(conv.kernel[...], float)
    expected = convolve(
        np.asarray(x, float).transpose(0, 3, 1, 2),
        kernel.transpose(3, 2, 0, 1),
        np.zeros(130),
        stride,
        side // 2,
    )
    result = jax.jit(lambda x: conv(x))(x)
    assert result.dtype == jnp.bfloat16
    error = np.abs(np.asarray(result, float).transpose(0, 3, 1, 2) - expected)
    # Half a unit in the last of eight digits, and what float32 sums are off by.
    assert (error <= 2.0**-8 * np.abs(expected) + 1e-5 * np.abs(expected).max()).all()
    program = jax.jit(lambda x: conv(x)).lower(x).as_text()
    assert ("convolution" in program) == (jax.default_backend() != "cpu" and side > 1)


@pytest.mark.parametrize("activation", [relu, relu6])
def test_nan_stays_nan_through_a_rectifier(activation):
    """Summed in one program with the rectifier, where XLA's own maximum makes 0 of it."""
    x = jnp.full((1, 16, 16, 128), jnp.nan)
    assert np.isnan(jax.jit(lambda x: activation(x + 1).mean(axis=(1, 2)))(x)).all()
    theirs = getattr(nnx, activation.__name__)
    x = jnp.linspace(-3, 9, 98)
    np.testing.assert_array_equal(activation(x), theirs(x))
    slopes = (jax.grad(lambda x, f=f: f(x).sum())(x) for f in (activation, theirs))
    np.testing.assert_array_equal(*slopes)
    assert jax.grad(activation)(0.0) == 0
