"""A number in JSON and in text."""

import pytest

from trainers.metrics.number import Number, measured, undefined, without_interval

SHARE = measured(0.8123456, 0.79, 0.8344, "exact")


def test_json_holds_what_is_known_and_why_something_is_missing():
    assert SHARE == {"value": 0.812346, "low": 0.79, "high": 0.8344, "method": "exact"}
    assert undefined("support 0") == {"value": None, "why": "not defined: support 0"}
    alone = {"value": 1.0, "low": None, "high": None, "method": "no interval", "why": "one lesion"}
    assert without_interval(1.0, "one lesion") == alone
    assert Number.read({**alone, "n": 3}).json() == alone


@pytest.mark.parametrize(
    "found, options, text",
    [
        (SHARE, {}, "0.812 (0.790 to 0.834)"),
        (SHARE, {"digits": 1, "percent": True}, "81.2 % (79.0 to 83.4)"),
        (measured(-0.125, -0.25, 0.5, ""), {"digits": 4, "signed": True}, "-0.1250 (-0.2500 to +0.5000)"),
        (undefined("support 0"), {}, "n/a"),
        (without_interval(1.0, "one lesion"), {}, "1.000 (no interval)"),
        ({"value": 0.25}, {"signed": True}, "+0.250"),
    ],
)
def test_text_shows_the_interval_or_that_there_is_none(found, options, text):
    assert Number.read(found).text(**options) == text
