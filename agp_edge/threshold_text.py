"""What a threshold's record promises, in words; for info, eval, threshold and validate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["promise_text"]


def promise_text(record: Mapping[str, Any] | None) -> str:
    """One clause about a manifest's `threshold` or a site file's `threshold_record`."""
    if record is None:
        return "no record: set by hand"
    method = record.get("method", "conformal")
    stands_on = f"from {record['n']} held-out good {record['unit']}"
    confidence = record.get("confidence")
    if method == "recall" and record.get("recall") is not None:
        sure = "on average" if confidence is None else f"with {confidence:.4g} confidence"
        return (
            f"finds at least {record['recall']:.4g} of new defective parts of the known kinds "
            f"{sure}; no false-reject rate is promised"
        )
    if record["false_reject"] >= 1.0:
        return f"method {method}, {stands_on}: no false-reject rate is promised"
    if confidence is not None:
        return (
            f"rejects at most {_percent(record['target'])} of new good {record['unit']} with "
            f"{confidence:.4g} confidence, {stands_on}"
        )
    text = (
        f"rejects at most {_percent(record['false_reject'])} of new good {record['unit']} on "
        f"average, {stands_on}"
    )
    target = record.get("target")
    if target is not None and record["false_reject"] > target:
        text += f" (too few for the {_percent(target)} asked for)"
    return text


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
