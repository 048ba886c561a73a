"""What each of two processes runs for `test_hosts.py`: `python processes.py NUMBER PORT TASK FILE`."""

import sys

import jax
import numpy as np
from jax.sharding import AxisType

from jaxmix import Checkpoint, Sharded, Subsample, as_distributed, gmm, kmeans, solve

NUMBER, PORT, TASK, FILE = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
X = np.load(f"{FILE}.rows.npy")
WEIGHTS = 1.0 + np.arange(len(X)) % 3
# Of unequal number.
OWN = slice(0, 200) if NUMBER == 0 else slice(200, None)


def fits(key, mesh):
    """Fits of all rows, and predictions of a process's own."""
    data = as_distributed(X[OWN], WEIGHTS[OWN], mesh=mesh)
    print(data.x.shape)
    searched = kmeans.fit(key, data, 4, subsample=Subsample(rows=100))
    found = {"kmeans": searched, "gmm": gmm.fit_restarts(key, data, 4, restarts=1, max_steps=5)}
    reduce = Sharded(mesh, deterministic=True)
    found["ordered"] = solve.run(kmeans.KMeans(), solve.EM(), X[:4], data, reduce=reduce)
    checkpoint = Checkpoint(FILE, every=2, max_seconds=1e6)
    for name in ("written", "read"):
        found[name] = solve.run(kmeans.KMeans(), solve.EM(), X[:4], data, checkpoint=checkpoint)
    labels = kmeans.predict(searched.params, data.x)
    held = {name: np.asarray(fit.loss) for name, fit in found.items()}
    own = np.concatenate([np.asarray(shard.data) for shard in labels.addressable_shards])
    held |= {"centers": np.asarray(searched.params), "labels": own[: len(X[OWN])]}
    for name, values in held.items():
        np.save(f"{FILE}.{NUMBER}.{name}.npy", values)


def rejected(key, mesh):
    """Rows of the second process that are not valid, or of another width."""
    for rows in (np.full((3, 2), np.nan) if NUMBER else np.ones((5, 2)), np.ones((3, 2 + NUMBER))):
        try:
            as_distributed(rows, mesh=mesh)
        except ValueError as error:
            print(error)


def forever(key, mesh):
    """A fit without end."""
    data = as_distributed(X[OWN], mesh=mesh)
    print("begins", flush=True)
    solve.run(kmeans.KMeans(), solve.Stepwise(1, key, patience=10**6), X[:4], data, max_steps=10**6).throw()


if __name__ == "__main__":
    jax.distributed.initialize(f"127.0.0.1:{PORT}", num_processes=2, process_id=NUMBER, heartbeat_timeout_seconds=10)
    devices = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    {"fits": fits, "rejected": rejected, "forever": forever}[TASK](jax.random.key(0), devices)
