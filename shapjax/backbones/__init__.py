"""Backbones: pure networks with their weights and preprocessing, loaded by name.

>>> from shapjax.backbones import load, names
>>> names()
('shapjax_tiny', 'squeezenet1_1')
"""

from shapjax.backbones.loading import load, names
from shapjax.backbones.record import Backbone, Preprocessing

__all__ = ["Backbone", "Preprocessing", "load", "names"]
