"""Amazon Data Firehose: ``firehose://STREAM?region=R&role=ARN&external_id=X``.

Each record goes with its newline, so that what Firehose delivers is NDJSON again.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

from collector.sinks._streams import Place, StreamSink, permissions_for, read_uri
from collector.sinks.base import Permission, Row, Run

SCHEMES = ("firehose",)

MOST_RECORD = 1_024_000
"""Bytes of a record: 1,000 KiB, before base64 (Amazon Data Firehose quota; its API Reference,
"Record")."""

MOST_CALL = 4 << 20
"""Bytes of a call's records: 4 MiB (Amazon Data Firehose quota), counted as those of a record."""

_STREAM = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def open_sink(uri: str, run: Run) -> FirehoseSink:
    return FirehoseSink(_place(uri), run.settings, observe=run.observe)


def permissions(uri: str) -> list[Permission]:
    place = _place(uri)
    arn = f"arn:*:firehose:{place.region or '*'}:*:deliverystream/{place.stream}"
    actions = (FirehoseSink.put, FirehoseSink.describe)
    return permissions_for(place, FirehoseSink.service, actions, arn)


def _place(uri: str) -> Place:
    return read_uri(uri, _STREAM, "its name, as in firehose://NAME, not its ARN")


class FirehoseSink(StreamSink):
    """Writes by PutRecordBatch; needs firehose:PutRecordBatch.

    With firehose:DescribeDeliveryStream as well, a stream that is not there, or that takes no
    records from us, is found out before the crawl.
    """

    service = "firehose"
    kind = "Firehose stream"
    describe = "DescribeDeliveryStream"
    description = "DeliveryStreamDescription"
    put = "PutRecordBatch"
    results = "RequestResponses"
    receipt = "RecordId"
    most_call = MOST_CALL
    most_record = MOST_RECORD

    def target(self) -> dict[str, str]:
        return {"DeliveryStreamName": self.place.stream}

    def check(self, stream: dict[str, Any]) -> str | None:
        status, kind = stream.get("DeliveryStreamStatus"), stream.get("DeliveryStreamType")
        if status not in (None, "ACTIVE"):
            return f"it is {status}"
        if kind not in (None, "DirectPut"):
            return f"its records come from elsewhere ({kind}); use one whose source is Direct PUT"
        return None

    def entry(self, row: Row) -> dict[str, str]:
        return {"Data": b64encode(row.line).decode()}
