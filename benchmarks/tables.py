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
    if as_json:
        print(json.dumps(records, indent=2))
        return
    names = list(dict.fromkeys(name for record in records for name in record))
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for record in records:
        print("| " + " | ".join(str(record.get(name, "")) for name in names) + " |")
