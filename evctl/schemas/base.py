"""What the document models share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A document that may have more keys than are promised."""

    model_config = ConfigDict(extra="allow")


class Fixed(BaseModel):
    """A document with these keys and no others."""

    model_config = ConfigDict(extra="forbid")
