"""What the sinks for AWS's two streams share: Amazon Data Firehose and Kinesis Data Streams.

Calls are made one at a time, so that a slow service slows the crawl, and a write returns once the
service has every record of it: nothing is ever in flight outside of a write. With 500 records a
call that is still some thousands a second, where a shard takes 1,000 and a Firehose stream, by its
default quota, 1 to 5 MiB.

Calls are the crawl's own: signed, paced, retried and renewed by `AwsClient`, over a wire and with
limits that only the sink uses. Some records of a call may fail while the call succeeds: these are
sent again, and they alone, until ``give_up_after`` passes without any record getting through.
"""

from __future__ import annotations

import asyncio
import difflib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar
from urllib.parse import unquote

from collector.aws.client import Access, AwsClient, Patience
from collector.aws.retry import EXPIRED, RETRYABLE, THROTTLED, backoff
from collector.aws.roles import RoleCredentials
from collector.aws.sessions import CallerCredentials, CredentialSource, Sdk
from collector.aws.throttle import Limits
from collector.aws.wire import Timeouts, Wire
from collector.errors import (
    CallError,
    ConfigurationError,
    CredentialsError,
    DeniedError,
    NotEnabledError,
    NotFoundError,
    SinkError,
)
from collector.events import Observer
from collector.settings import Settings
from collector.sinks.base import Kept, Permission, Position, Refusal, Row, shown
from collector.text import clean

MOST_RECORDS = 500
"""Records a call, of both services."""

TOO_FAST = THROTTLED | {"ServiceUnavailableException"}
"""Codes of records that failed for their rate; the last is Firehose's word for it."""

STARTUP_PATIENCE = 60.0
"""Seconds: a person waits at the start, so the first call gives up sooner than the others."""

_OPTIONS = {
    "region": (r"[a-z]{2,}(-[a-z]+)+-\d+", "the code of a region, as eu-west-1 is"),
    "role": (r"arn:aws[a-z-]*:iam::\d{12}:role/[\x21-\x7e]+", "the ARN of a role"),
    "external_id": (r"[\w+=,.@:/-]{2,1224}", "2 to 1224 letters, digits and any of +=,.@:/_-"),
}
_MISSING = {"ErrorCode": "UnreadableAnswer", "ErrorMessage": "the answer does not say"}


@dataclass(frozen=True, slots=True)
class Place:
    """What SCHEME://STREAM?region=R&role=ARN&external_id=X says; None where it says nothing."""

    label: str
    stream: str
    region: str | None = None
    role: str | None = None
    external_id: str | None = None


def read_uri(uri: str, stream: re.Pattern[str], wanted: str) -> Place:
    """The place that ``uri`` names; ``wanted`` is the form of a stream, in words.

    Raises ConfigurationError.
    """
    label = shown(uri)
    name, _, query = uri.partition("://")[2].partition("?")
    name = name.rstrip("/")
    if not stream.fullmatch(name):
        raise ConfigurationError(f"The sink {label} lacks a stream: give {wanted}.")
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        option, _, value = pair.partition("=")
        if option not in _OPTIONS:
            near = difflib.get_close_matches(option, _OPTIONS, 1) or [", ".join(_OPTIONS)]
            raise ConfigurationError(
                f"The sink {label} has no option {clean(option)!r}; did you mean {near[0]}?"
            )
        pattern, values = _OPTIONS[option]
        options[option] = unquote(value)  # not unquote_plus: a role may have a + in its name
        if not re.fullmatch(pattern, options[option], re.ASCII):
            raise ConfigurationError(f"The sink {label} takes as {option} {values}.")
    if "external_id" in options and "role" not in options:
        raise ConfigurationError(f"The sink {label} has an external_id, but no role to assume.")
    return Place(label, name, **options)


def permissions_for(
    place: Place, service: str, actions: tuple[str, str], stream_arn: str
) -> list[Permission]:
    """What the caller needs for a sink: its role, or to write to, and look at, the stream."""
    if place.role is not None:
        return [Permission("AssumeSinkRole", ["sts:AssumeRole"], [place.role])]
    allowed = [f"{service}:{action}" for action in sorted(actions)]
    return [Permission(f"WriteTo{service.title()}", allowed, [stream_arn])]


class Progress(Patience):
    """Patience with records: a call that is answered without one being taken is no success."""

    def success(self) -> None:
        """A call was answered, whatever the answer says of its records."""

    def advance(self) -> None:
        """A record was taken."""
        super().success()


class StreamSink(ABC):
    """At least once, and at once: records are handed on for good, there is nothing to go back to.

    A subclass says what is particular to its service. ``most_record`` and ``most_call`` are bytes.
    """

    service: ClassVar[str]
    kind: ClassVar[str]
    describe: ClassVar[str]
    description: ClassVar[str]
    """Member of an answer to ``describe`` that has all of it."""
    put: ClassVar[str]
    results: ClassVar[str]
    """Member of an answer with a result for each record, in the order of the records."""
    receipt: ClassVar[str]
    """Member of a result that only a record has that was taken."""
    most_call: ClassVar[int]
    most_record: int
    ordered: ClassVar[bool] = False
    """Whether records of one job stay in order: they are never in one call then, within which the
    service does not keep it."""

    def __init__(
        self,
        place: Place,
        settings: Settings,
        *,
        observe: Observer = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.place = place
        self._settings = settings
        self._observe = observe
        self._clock = clock
        self._sleep = sleep
        self._held = AsyncExitStack()
        self._client: AwsClient | None = None
        self._region = ""
        self._source: CredentialSource
        self._progress = Progress(settings.give_up_after, clock)

    @abstractmethod
    def target(self) -> dict[str, str]:
        """The members of a request that name the stream."""

    @abstractmethod
    def check(self, stream: dict[str, Any]) -> str | None:
        """Read what the service says of the stream; why it cannot be written to, if so."""

    @abstractmethod
    def entry(self, row: Row) -> dict[str, str]:
        """A record as the service takes it."""

    def size(self, row: Row) -> int:
        """Bytes of a record as the service counts them."""
        return len(row.line)

    async def open(self, position: Position | None = None) -> Kept:  # noqa: ARG002
        try:
            self._client = await self._connect()
            await self._look()
        except BaseException:
            await self.close(whole=False)
            raise
        return Kept.NOTHING

    async def _connect(self) -> AwsClient:
        settings, place = self._settings, self.place
        sdk = Sdk(profile=settings.profile, endpoint_url=settings.endpoint_url)
        seconds = Timeouts(settings.connect_timeout, settings.read_timeout, settings.call_timeout)
        try:
            self._region = place.region or sdk.home_region()
            home = sdk.home_region((self._region,))
            wire = Wire(ssl_context=sdk.ssl_context(), timeouts=seconds, connections=4)
        except CredentialsError as error:
            raise SinkError(f"The sink {place.label} cannot be opened: {error}") from error
        await self._held.enter_async_context(wire)

        def client() -> AwsClient:
            limits = Limits(
                clock=self._clock, sleep=self._sleep, caps={}, headroom=settings.headroom
            )
            return AwsClient(
                sdk,
                wire,
                limits,
                slots=asyncio.Semaphore(1),
                observe=self._observe,
                clock=self._clock,
                sleep=self._sleep,
            )

        self._source = CallerCredentials(sdk)
        if place.role is not None:
            # With a client of its own: keys are renewed in the middle of a call with records.
            self._source = RoleCredentials(
                client(),
                Access("", home, self._source, Patience(settings.give_up_after, self._clock)),
                role_arn=place.role,
                session_name=settings.role_session_name,
                external_id=place.external_id,
                now=wire.now,
            )
        return client()

    async def _look(self) -> None:
        """Make sure of the stream. Who may write to it need not be allowed to describe it."""
        patience = Patience(min(STARTUP_PATIENCE, self._settings.give_up_after), self._clock)
        try:
            description = await self._call(self.describe, {}, patience)
        except DeniedError as error:
            if error.operation != self.describe or _expired(error):
                raise self._failure(error) from error
        except CallError as error:
            raise self._failure(error) from error
        else:
            if why := self.check(description[self.description]):
                raise SinkError(f"The {self._name} cannot be written to: {why}.")

    async def _call(self, operation: str, params: dict[str, Any], patience: Patience) -> Any:
        try:
            return await self._open_client.json(
                Access("", self._region, self._source, patience),
                self.service,
                operation,
                self.target() | params,
                required=(self.results if operation == self.put else self.description,),
                not_found=(("ResourceNotFoundException", ""),),
            )
        except CredentialsError as error:
            raise SinkError(f"The {self._name} cannot be written to: {error}") from error

    @property
    def _open_client(self) -> AwsClient:
        if self._client is None:
            raise SinkError(f"The sink {self.place.label} is not open.")
        return self._client

    async def write(self, rows: Sequence[Row]) -> Sequence[Refusal]:
        """Hand some records on; returns those above the service's limit, which are not sent."""
        fitting = [row for row in rows if self.size(row) <= self.most_record]
        for batch in self._batches(fitting):
            await self._send([self.entry(row) for row in batch])
        if len(fitting) == len(rows):
            return ()
        return [
            Refusal(
                row,
                self.place.label,
                f"it has {self.size(row):,} bytes, and the {self.kind} takes at most "
                f"{self.most_record:,} a record",
            )
            for row in rows
            if self.size(row) > self.most_record
        ]

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """The rows in order, as many at once as a call takes."""
        batch: list[Row] = []
        total = 0
        jobs: set[str] = set()
        for row in rows:
            size = self.size(row)
            if batch and (
                len(batch) == MOST_RECORDS
                or total + size > self.most_call
                or (self.ordered and row.arn in jobs)
            ):
                yield batch
                batch, total, jobs = [], 0, set()
            batch.append(row)
            total += size
            jobs.add(row.arn)
        if batch:
            yield batch

    async def _send(self, entries: list[dict[str, str]]) -> None:
        """Hand some records on, and those that fail again, until the service has them all."""
        failures = 0
        while entries:
            began = self._clock()
            try:
                answer = await self._call(self.put, {"Records": entries}, self._progress)
            except CallError as error:
                raise self._failure(error) from error
            said = zip_longest(entries, answer[self.results][: len(entries)], fillvalue=_MISSING)
            failed = [(entry, result) for entry, result in said if not result.get(self.receipt)]
            if len(failed) < len(entries):
                self._progress.advance()
                failures = 0
            entries = [entry for entry, _ in failed]
            if entries:
                failures += 1
                await self._bear([result for _, result in failed], failures, began)

    async def _bear(self, results: Sequence[dict[str, Any]], failures: int, began: float) -> None:
        """Wait before the records that failed are sent again, or give up."""
        client, progress = self._open_client, self._progress
        if any(result.get("ErrorCode") in TOO_FAST for result in results):
            client.limits.of(("", self._region, self.put)).throttled(began)
        progress.failure()
        if progress.lost:
            last = results[-1]
            raise SinkError(
                f"The {self._name} took no record for {self._settings.give_up_after:g} seconds "
                f"({clean(last.get('ErrorCode'))}: {clean(last.get('ErrorMessage'))}): see to its "
                "capacity, and run the same command again."
            )
        await client.sleep(min(backoff(failures, client.random), progress.remaining))

    @property
    def _name(self) -> str:
        return f"{self.kind} {self.place.stream} in {self._region}"

    def _failure(self, error: CallError) -> SinkError:
        """One sentence for a call that failed for good, with what to do."""
        advice = f"The {self._name} cannot be written to ({error}): "
        if isinstance(error, NotFoundError):
            advice = f"There is no {self._name} ({error}): create it, or see to the sink's URI"
        elif isinstance(error, RETRYABLE):
            advice += "see to its capacity or to the network, and run the same command again"
        elif isinstance(error, NotEnabledError):
            advice += "the credentials are bad, or the region is not enabled for their account"
        elif isinstance(error, DeniedError) and error.operation == self.put and not _expired(error):
            who = self.place.role or "the caller"
            advice += f"allow {who} {self.service}:{self.put} on it"
        else:
            advice = f"The {self._name} cannot be written to: {str(error).rstrip('.')}"
        return SinkError(advice + ".")

    async def flush(self) -> Position | None:
        """Nothing is held back, and nothing can be taken back."""
        return None

    async def close(self, *, whole: bool) -> str | None:  # noqa: ARG002
        self._client = None
        await self._held.aclose()
        return None


def _expired(error: CallError) -> bool:
    return error.code in EXPIRED
