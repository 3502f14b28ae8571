"""How benchmarks print: a Markdown table, or JSON."""

from __future__ import annotations

import json
from typing import Any


def print_records(records: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print records, one row each; columns in the order in which they first appear.

    Args:
        records: name to value; a value that a record lacks is left blank.
        as_json: print a JSON array instead of a table.
    """
    print(json.dumps(records, indent=2) if as_json else markdown(records))


def markdown(records: list[dict[str, Any]]) -> str:
    """A Markdown table of records, columns in the order in which they first appear."""
    names = list(dict.fromkeys(name for record in records for name in record))
    rows = [names, *([str(record.get(name, "")) for name in names] for record in records)]
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(names), *body])
