"""What the codes of the capture say to people."""

from __future__ import annotations

_CODES = {
    "truncated": "A body was longer than --max-payload: only its beginning is in the log.",
    "unredactable": "A body could not be searched for what must be redacted, so it was not stored.",
    "unencodable": "The model's input or output has no form in JSON.",
    "client_gone": "The client went away before it had the whole answer.",
    "upstream_failed": "The model server could not be reached, or broke off its answer.",
    "upstream_timeout": "The model server did not answer in time.",
    "canary_lost": "The canary did not answer, so the champion did.",
    "failed": "There is no prediction.",
    "encoding": "A body is not packed as its header says.",
    "too_large": "A body holds more, or unpacks to more, than Mooring looks at.",
    "too_wide": "A table has more columns than Mooring looks at.",
    "unreadable": "The drain could not make them a part of the log, and has set them aside.",
    "content_type": "The format of a body is none that Mooring reads.",
    "malformed": "A body is not what its format says.",
    "rows_differ": "The answer has another number of rows than the request: only the inputs are in the log.",
    "chat": "The request is a conversation, not rows.",
    "disk_full": "The disk of the spool was full.",
    "spool_full": "The spool held --spool-max-bytes.",
    "spool_unwritable": "The spool could not be written.",
    "not_redacted": "The process had to stop before it had redacted them.",
    "killed": "The process ended while they were in flight.",
}


def in_words(code: str) -> str:
    """Return what a code of the capture means, '' for one that is not known here.

    >>> in_words("client_gone")
    'The client went away before it had the whole answer.'
    """
    return _CODES.get(code, "")
