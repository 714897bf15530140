"""One model works at a time: with two cores, two at once would each take twice as long and twice the memory."""

from __future__ import annotations

from typing import Any

MOST_WAITING = 40  # requests in the queue; more are refused politely, at once
# For every event in which a model works: one after the other, across all tabs and endpoints.
QUEUED: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
QUEUED_API: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
