"""What keeps a run from starting or from going on."""

from __future__ import annotations

__all__ = ["BulkError"]


class BulkError(Exception):
    """The run can't start or go on; the message says why and what to do."""
