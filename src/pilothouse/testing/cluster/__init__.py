"""A whole cluster on one machine: PostgreSQL and Valkey from wheels, nodes that serve, workers that only execute.

    async with Cluster(ClusterPlan(app="main:app", folder=Path("cluster"))) as cluster:
        print(cluster.token, *(node.url for node in cluster.nodes))

For trying and for tests: nothing is restarted by itself, and everything ends with the process that started it.
"""

from pilothouse.testing.cluster.cluster import Cluster, ClusterPlan
from pilothouse.testing.cluster.postgres import Postgres
from pilothouse.testing.cluster.processes import Child, free_port
from pilothouse.testing.cluster.servers import Node, Worker
from pilothouse.testing.cluster.valkey import Valkey

__all__ = ["Child", "Cluster", "ClusterPlan", "Node", "Postgres", "Valkey", "Worker", "free_port"]
