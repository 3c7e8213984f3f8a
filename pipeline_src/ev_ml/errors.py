"""Base of everything ev_ml raises on purpose."""

from __future__ import annotations


class DataError(Exception):
    """What is wrong with the data or the model, one line; `hint` says what to change.

    Args:
        message: what happened and why.
        hint: what to do next.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        # a step's last words are all that its run can tell of it
        return f"{self.message}; {self.hint}" if self.hint else self.message
