"""One process of a run on many: rows of made-up pairs, slowly, as ``shapjax evaluate`` writes them.

python cluster_process.py FOLDER SECONDS COORDINATOR|- [PROCESSES PROCESS]
"""

import sys
import time

import jax
import jax.numpy as jnp

from shapjax.evaluate.cluster import join, wait_for_rows
from shapjax.evaluate.mining import stable_hash
from shapjax.evaluate.rows import key_of
from shapjax.evaluate.store import Store

PAIRS = [f"pair {place}" for place in range(24)]


def row_of(pair):
    """What is computed of a pair: by JAX, from the pair's name alone."""
    key = jax.random.fold_in(jax.random.key(0), stable_hash(pair))
    number = float(jnp.square(jax.random.normal(key, (100,), jnp.float32)).sum())
    known = {"pair": pair, "backbone": "b", "method": "m", "order": 1}
    return {**known, "number": number, "error": None}


def main():
    """Join, compute what is missing of the own shard; process 0 waits for the others."""
    folder, seconds, coordinator, *numbers = sys.argv[1:]
    place = join(None if coordinator == "-" else coordinator, *map(int, numbers), patience=20)
    computed = 0
    with Store.open(folder, {"plan": 1}, shard=place.process, shards=place.processes) as store:
        for pair in PAIRS[place.process :: place.processes]:
            row = row_of(pair)
            if key_of(row) not in store.done():
                time.sleep(float(seconds))
                store.append(row)
                computed += 1
                print(f"row {pair}", flush=True)
        store.finish()
    missing = set()
    if place.process == 0:
        keys = {(pair, "b", "m", 1) for pair in PAIRS}
        missing = wait_for_rows(folder, keys, patience=2)[1]
    print(f"computed {computed}, missing {len(missing)}", flush=True)


if __name__ == "__main__":
    main()
