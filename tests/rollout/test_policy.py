"""Which parts of the requests are what a release was given, and which somebody set by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evctl.rollout.ledger import Ledger, Release
from evctl.rollout.policy import by_hand
from evctl.rollout.serving.base import Serving, Share

LIVE = Release(1, "v1", "u", "d", None, "live", "now", "anna")
CANARY = replace(LIVE, revision=2, status="pending", canary=10)


@pytest.mark.parametrize(
    ("share", "pending", "set_by_hand"),
    [
        (Share("r2", "2", 10), CANARY, False),
        (Share("r2", "2", 30), CANARY, True),
        (Share("r9", "9", 10), CANARY, True),
        (Share("theirs", "", 10), CANARY, True),
        (Share("r2", "2", 10), None, True),
        (Share("r2", "2", 0), replace(CANARY, canary=None, asked=10), False),
        (Share("canaryTrafficPercent", "1", 10), None, True),
        (Share("canaryTrafficPercent", "2", 10), CANARY, False),
    ],
)
def test_a_part_of_the_requests_is_set_by_hand_unless_the_ledger_gave_just_it(
    share: Share, pending: Release | None, set_by_hand: bool
) -> None:
    ledger = Ledger((LIVE, pending) if pending else (LIVE,), 2)
    assert by_hand(Serving("serving", shares=(share,)), ledger) == ((share,) if set_by_hand else ())
