"""A small shop in a SQLite file, made with its customers and orders on first use. All of it is invented."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from pilothouse.db.private_files import make_private_database, make_private_folder

T = TypeVar("T")
Row = dict[str, Any]

_SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, city TEXT NOT NULL);
CREATE TABLE orders (id TEXT PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers(id),
                     placed_on TEXT NOT NULL, status TEXT NOT NULL, carrier TEXT, tracking TEXT, arrives_on TEXT);
CREATE TABLE order_items (order_id TEXT NOT NULL REFERENCES orders(id), name TEXT NOT NULL, quantity INTEGER NOT NULL,
                          cents INTEGER NOT NULL);
CREATE TABLE refunds (id INTEGER PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders(id), cents INTEGER NOT NULL,
                      reason TEXT NOT NULL, idempotency_key TEXT UNIQUE,
                      made_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
"""
_CUSTOMERS = [
    (1, "Mira Lindqvist", "mira@example.com", "Malmö"),
    (2, "Tomás Ferreira", "tomas@example.com", "Porto"),
    (3, "Aiko Tanaka 田中", "aiko@example.com", "Osaka"),
    (4, "Samuel Okafor", "samuel@example.com", "Leeds"),
]
_ORDERS = [
    ("1039", 1, "2026-09-28", "delivered", "NordPost", "NP774120031", "2026-10-02"),
    ("1040", 2, "2026-10-30", "delivered", "Correio Rápido", "CR99120417", "2026-11-04"),
    ("1041", 3, "2026-11-09", "in transit", "Sakura Express", "SX5503218", "2026-11-26"),
    ("1042", 1, "2026-11-17", "packed", "NordPost", "NP774129940", "2026-11-24"),
    ("1043", 4, "2026-11-18", "in transit", "Royal Parcel", "RP40011872", "2026-11-23"),
    ("1044", 1, "2026-11-20", "processing", None, None, None),
    ("1045", 2, "2026-11-12", "cancelled", None, None, None),
]
_ITEMS = [
    ("1039", "Wool blanket, moss green", 1, 8900),
    ("1039", "Beeswax candles, set of 4", 2, 1450),
    ("1040", "Enamel teapot", 1, 4200),
    ("1041", "Linen apron", 1, 3600),
    ("1041", "Oak chopping board", 1, 5400),
    ("1042", "Stoneware mug, sea blue", 4, 1800),
    ("1042", "Ground coffee, 500 g", 2, 1250),
    ("1043", "Cast-iron pan, 28 cm", 1, 7900),
    ("1044", "Reading lamp, brass", 1, 12900),
    ("1045", "Picnic basket", 1, 6400),
]


class RefundRefused(Exception):
    """The shop's rules say no; the text may be shown to the customer."""


class Shop:
    """The shop's data.

    Args:
        path: the SQLite file; made, with its folder, where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def order(self, order_id: str) -> Row | None:
        """One order with its items, total and refunds; None where there is none. Amounts are cents."""
        return await self._do(lambda connection: _order(connection, order_id))

    async def orders(self, email: str) -> list[Row]:
        """A customer's orders, newest first."""

        def read(connection: sqlite3.Connection) -> list[Row]:
            query = (
                "SELECT o.id FROM orders o JOIN customers c ON c.id = o.customer_id "
                "WHERE c.email = ? ORDER BY o.id DESC"
            )
            ids = [row["id"] for row in connection.execute(query, (email.strip().lower(),))]
            return [order for order_id in ids if (order := _order(connection, order_id))]

        return await self._do(read)

    async def refund(self, order_id: str, cents: int | None, reason: str, *, key: str | None) -> Row:
        """Record a refund of `cents`, or of all that is left.

        The same `key` again answers with the refund it made the first time.

        Raises:
            RefundRefused: no such order, nothing left, or more than is left.
        """

        def write(connection: sqlite3.Connection) -> Row:
            made = connection.execute("SELECT * FROM refunds WHERE idempotency_key = ?", (key,)).fetchone()
            if made is not None:
                return {
                    "refund_id": made["id"],
                    "order_id": made["order_id"],
                    "cents": made["cents"],
                    "left_cents": None,
                }
            left = _refundable(connection, order_id)
            amount = left if cents is None else cents
            if amount > left:
                raise RefundRefused(
                    f"Only {money(left)} of order {order_id} can still be refunded, not {money(amount)}."
                )
            cursor = connection.execute(
                "INSERT INTO refunds (order_id, cents, reason, idempotency_key) VALUES (?, ?, ?, ?)",
                (order_id, amount, reason, key),
            )
            return {"refund_id": cursor.lastrowid, "order_id": order_id, "cents": amount, "left_cents": left - amount}

        return await self._do(write)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._transaction, work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        make_private_folder(self._path.parent)
        make_private_database(self._path)
        with closing(sqlite3.connect(self._path, timeout=10, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN IMMEDIATE")
            try:
                _make_once(connection)
                result = work(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            return result


def money(cents: int) -> str:
    """An amount as people write it: `€12.50`."""
    return f"€{cents // 100}.{cents % 100:02d}"


def _make_once(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA user_version").fetchone()[0]:
        return
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
    connection.executemany("INSERT INTO customers VALUES (?, ?, ?, ?)", _CUSTOMERS)
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)", _ORDERS)
    connection.executemany("INSERT INTO order_items VALUES (?, ?, ?, ?)", _ITEMS)
    connection.execute("PRAGMA user_version = 1")


def _order(connection: sqlite3.Connection, order_id: str) -> Row | None:
    query = (
        "SELECT o.id, c.name AS customer, o.placed_on, o.status, o.carrier, o.tracking, o.arrives_on "
        "FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.id = ?"
    )
    row = connection.execute(query, (order_id,)).fetchone()
    if row is None:
        return None
    items = connection.execute("SELECT name, quantity, cents FROM order_items WHERE order_id = ?", (order_id,))
    order: Row = {**dict(row), "items": [dict(item) for item in items]}
    order["total_cents"] = sum(item["quantity"] * item["cents"] for item in order["items"])
    refunded = connection.execute("SELECT coalesce(sum(cents), 0) FROM refunds WHERE order_id = ?", (order_id,))
    order["refunded_cents"] = refunded.fetchone()[0]
    return order


def _refundable(connection: sqlite3.Connection, order_id: str) -> int:
    order = _order(connection, order_id)
    if order is None:
        raise RefundRefused(f"There is no order {order_id}.")
    left = int(order["total_cents"] - order["refunded_cents"])
    if left <= 0:
        raise RefundRefused(f"Order {order_id} has already been refunded in full.")
    return left
