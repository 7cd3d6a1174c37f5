"""Amazon Kinesis Data Streams: ``kinesis://STREAM?region=R&role=ARN&external_id=X``.

STREAM is a name, or an ARN, which a stream of another account needs where no role is assumed. The
partition key is the job's ARN: a job's records go to one shard, in the order they were written in.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Any

from collector.errors import ConfigurationError
from collector.sinks._streams import Place, StreamSink, permissions_for, read_uri
from collector.sinks.base import Permission, Row, Run

SCHEMES = ("kinesis",)

DEFAULT_RECORD = 1 << 20
"""Bytes of a record with its partition key, before base64: 1 MiB, where the stream's own limit,
which may be up to 10 MiB, is not known (Kinesis Data Streams Developer Guide, "Handle large
records"; API Reference, "StreamDescriptionSummary", MaxRecordSizeInKiB)."""

MOST_CALL = 10 << 20
"""Bytes of a call's records with their partition keys: 10 MiB (API Reference, "PutRecords")."""

MOST_KEY = 256
"""Characters of a partition key (API Reference, "PutRecordsRequestEntry")."""

_STREAM = re.compile(
    r"(arn:aws[a-z-]*:kinesis:(?P<region>[a-z0-9-]+):\d{12}:stream/)?[a-zA-Z0-9_.-]{1,128}"
)


def open_sink(uri: str, run: Run) -> KinesisSink:
    return KinesisSink(_place(uri), run.settings, observe=run.observe)


def permissions(uri: str) -> list[Permission]:
    place = _place(uri)
    name = place.stream.rpartition("/")[2]
    arn = f"arn:*:kinesis:{place.region or '*'}:*:stream/{name}"
    actions = (KinesisSink.put, KinesisSink.describe)
    return permissions_for(
        place, KinesisSink.service, actions, place.stream if "/" in place.stream else arn
    )


def _place(uri: str) -> Place:
    place = read_uri(uri, _STREAM, "its name or its ARN, as in kinesis://NAME")
    match = _STREAM.fullmatch(place.stream)
    region = match and match["region"]
    if region and place.region not in (None, region):
        raise ConfigurationError(
            f"The sink {place.label} is in {region} by its ARN, and in {place.region} by its "
            "region: leave the region out."
        )
    return replace(place, region=region or place.region)


class KinesisSink(StreamSink):
    """Writes by PutRecords; needs kinesis:PutRecords.

    With kinesis:DescribeStreamSummary as well, a stream that is not there is found out before the
    crawl, and so is its limit for a record.
    """

    service = "kinesis"
    kind = "Kinesis stream"
    describe = "DescribeStreamSummary"
    description = "StreamDescriptionSummary"
    put = "PutRecords"
    results = "Records"
    receipt = "SequenceNumber"
    most_call = MOST_CALL
    most_record = DEFAULT_RECORD
    ordered = True

    def target(self) -> dict[str, str]:
        stream = self.place.stream
        return {"StreamARN" if stream.startswith("arn:") else "StreamName": stream}

    def check(self, stream: dict[str, Any]) -> str | None:
        if (limit := stream.get("MaxRecordSizeInKiB")) is not None:
            self.most_record = min(int(limit) << 10, MOST_CALL)
        status = stream.get("StreamStatus")
        return None if status in (None, "ACTIVE", "UPDATING") else f"it is {status}"

    def size(self, row: Row) -> int:
        return len(row.line) + len(_key(row).encode())

    def entry(self, row: Row) -> dict[str, str]:
        return {"Data": b64encode(row.line).decode(), "PartitionKey": _key(row)}


def _key(row: Row) -> str:
    return row.arn if len(row.arn) <= MOST_KEY else sha256(row.arn.encode()).hexdigest()
