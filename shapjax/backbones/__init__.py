"""Backbones: pure networks with their weights and preprocessing, loaded by name.

>>> from shapjax.backbones import load, names
>>> names()[:3]
('shapjax_tiny', 'resnet18', 'resnet50')
"""

from shapjax.backbones.loading import load, names
from shapjax.backbones.record import Backbone, Preprocessing

__all__ = ["Backbone", "Preprocessing", "load", "names"]
