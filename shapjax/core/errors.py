"""Errors a user can act on: one sentence that says what came, what was wanted and the remedy."""


class ShapjaxError(ValueError):
    """Base of every error that bad input can cause; the command line prints it and exits with 2."""


class DtypeError(ShapjaxError):
    """The precision asked for cannot be had under the current JAX configuration."""


class MemoryRefused(ShapjaxError):
    """A computation was refused before allocating more memory than there is."""


class ValueFunctionError(ShapjaxError):
    """A value function returned something unusable (wrong shape, NaN, infinity)."""


class ImageError(ShapjaxError):
    """An image cannot be read or used."""


class WeightsError(ShapjaxError):
    """A weight file cannot be read, or does not fit the network it is loaded into."""


class NotFiniteError(ShapjaxError):
    """A network gives NaN or infinity for a picture."""
