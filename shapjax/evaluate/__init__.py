"""Evaluation of explanations: data sets, pairs, metrics and the paper's tables.

``datasets`` reads publishers' layouts, ``mining`` finds ``pairs``, ``metrics`` has pure functions,
``run`` computes rows that ``store`` keeps, and ``tables`` sets them beside what was ``published``.
"""

from shapjax.evaluate import datasets, metrics, mining, pairs, published, run, store, tables

__all__ = ["datasets", "metrics", "mining", "pairs", "published", "run", "store", "tables"]
