"""What answers and faults mean, and when a call is made again."""

from __future__ import annotations

import asyncio
import json
import threading
from email.utils import formatdate
from time import monotonic, time
from types import SimpleNamespace

import aiohttp
import orjson
import pytest
from multidict import CIMultiDict

from collector.aws import retry
from collector.aws.mend import DEEPEST, Mended
from collector.aws.retry import (
    again,
    as_not_found,
    backoff,
    network_error,
    read_built,
    read_json,
)
from collector.aws.wire import Answer
from collector.errors import (
    CallError,
    ClockError,
    DeniedError,
    ExpiredError,
    NotEnabledError,
    NotFoundError,
    RejectedError,
    ThrottledError,
    TransientError,
)
from collector.text import clean

OP = "DescribeTrainingJob"
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def answer(status: int, body: object = b"", **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Answer(0.0, status, named, content)


def error_of(*args: object, **headers: str) -> CallError:
    with pytest.raises(CallError) as caught:
        read_json(OP, answer(*args, **headers), ("TrainingJobName",))
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "message"),
    [
        (
            400,
            {"__type": "ThrottlingException", "message": "Rate exceeded"},
            ThrottledError,
            "ThrottlingException",
            "Rate exceeded",
        ),
        (
            400,
            {"__type": "com.amazon.coral#ThrottlingException:http://x/", "Message": "m"},
            ThrottledError,
            "ThrottlingException",
            "m",
        ),
        (400, {"__type": "ThrottledException"}, ThrottledError, "ThrottledException", ""),
        (
            400,
            {"__type": "TooManyRequestsException"},
            ThrottledError,
            "TooManyRequestsException",
            "",
        ),
        (400, {"code": "RequestLimitExceeded"}, ThrottledError, "RequestLimitExceeded", ""),
        (429, b"", ThrottledError, "HTTP429", ""),
        (429, HTML, ThrottledError, "HTTP429", ""),
        (429, {"__type": "Novel"}, ThrottledError, "Novel", ""),
        (500, {"__type": "InternalFailure"}, TransientError, "InternalFailure", ""),
        (400, {"__type": "InternalServerError"}, TransientError, "InternalServerError", ""),
        (500, {"__type": "Novel"}, TransientError, "Novel", ""),
        (502, HTML, TransientError, "HTTP502", ""),
        (503, b"", TransientError, "HTTP503", ""),
        (503, {"message": "later"}, TransientError, "HTTP503", "later"),
        (503, {"__type": "Throttling"}, ThrottledError, "Throttling", ""),
        (408, b"", TransientError, "HTTP408", ""),
        (400, {"__type": "ExpiredTokenException"}, ExpiredError, "ExpiredTokenException", ""),
        (403, {"__type": "InvalidSignatureException"}, ClockError, "InvalidSignatureException", ""),
        (403, {"__type": "RequestTimeTooSkewed"}, ClockError, "RequestTimeTooSkewed", ""),
        (
            400,
            {"__type": "AccessDeniedException", "Message": "User: x is not authorized"},
            DeniedError,
            "AccessDeniedException",
            "User: x is not authorized",
        ),
        (403, b"", DeniedError, "HTTP403", ""),
        (401, HTML, DeniedError, "HTTP401", ""),
        (403, {"__type": "Novel"}, RejectedError, "Novel", ""),
        (
            400,
            {"__type": "UnrecognizedClientException"},
            NotEnabledError,
            "UnrecognizedClientException",
            "",
        ),
        (403, {"__type": "InvalidClientTokenId"}, NotEnabledError, "InvalidClientTokenId", ""),
        (
            400,
            {"__type": "ValidationException", "errorMessage": "bad"},
            RejectedError,
            "ValidationException",
            "bad",
        ),
        (400, [], TransientError, "HTTP400", ""),
        (400, b"null", TransientError, "HTTP400", ""),
        (400, {"__type": None, "message": None}, TransientError, "HTTP400", ""),
        (400, {"__type": 5, "message": {"a": 1}}, RejectedError, "5", "{'a': 1}"),
        (301, b"", TransientError, "HTTP301", ""),
        (400, HTML, TransientError, "HTTP400", ""),
        (204, b"", TransientError, "HTTP204", ""),
        (404, HTML, RejectedError, "HTTP404", ""),
        (407, b"", RejectedError, "HTTP407", ""),
    ],
)
def test_an_answer_means_one_error(status, body, kind, code, message):
    """Status, code and message of a JSON answer give the error that says what to do next."""
    error = error_of(status, body)
    assert type(error) is kind
    assert (error.code, error.message, error.status, error.operation) == (code, message, status, OP)


@pytest.mark.parametrize(
    "header",
    [
        "ThrottlingException",
        "ThrottlingException:http://internal.amazon.com/coral/com.amazon.coral.service/",
        "com.amazon.coral.availability#ThrottlingException:http://internal/",
    ],
)
def test_the_code_may_be_in_a_header(header):
    """A code that the body lacks is read from x-amzn-ErrorType, cut to its name."""
    error = error_of(400, b"", x_amzn_errortype=header, x_amzn_requestid="abc-1")
    assert type(error) is ThrottledError
    assert (error.code, error.request_id) == ("ThrottlingException", "abc-1")
    assert str(error) == f"{OP}: ThrottlingException (request abc-1)"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (HTML, "not JSON"),
        (b'{"TrainingJobName": "a"', "not JSON"),
        (b"[]", "not JSON"),
        (b"{}", "lacks TrainingJobName"),
        (b'{"TrainingJobName": null}', "lacks TrainingJobName"),
        (b'{"TrainingJobName": "\xff"}', "not JSON"),
    ],
)
def test_an_answer_without_its_members_is_a_fault(body, why):
    """Under status 200 a body that is cut, emptied or replaced is tried again, never believed."""
    error = error_of(200, body)
    assert type(error) is TransientError
    assert error.code == "UnreadableAnswer"
    assert why in error.message


def test_an_answer_with_its_members_is_an_answer():
    """Nothing is asked of an answer but its required members; empty ones count."""
    assert read_json(OP, answer(200, {"a": []}), ("a",)) == {"a": []}
    assert read_json(OP, answer(200, {})) == {}


@pytest.mark.parametrize(
    "nasty", ["\x1b[31m", "\n", "\r\n", "\x00", "\x9b", "\u2028", "\u202e", "\u2066", "\x7f"]
)
def test_text_from_outside_is_cleaned(nasty):
    """Codes, messages and request ids hold no control character and no change of direction."""
    error = error_of(
        400, {"__type": f"A{nasty}B", "message": f"c{nasty}d"}, x_amzn_requestid=f"e{nasty}f"
    )
    text = str(error)
    assert not any(character in text for character in nasty if not character.isprintable())
    assert "\n" not in text
    assert len(error_of(400, {"__type": "A", "message": "x" * 10_000}).message) < 1000


CONTROLS = [
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x61C, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF, 0xFFF9, 0xFFFE, 0xFFFF),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000, 97),
]


def test_no_control_character_is_left():
    """C0, C1, line and paragraph separators, bidi controls, halves of pairs: none comes through."""
    for code in CONTROLS:
        assert clean(f"ä{chr(code)}ö") == "ä ö", hex(code)
    dirty = "".join(map(chr, CONTROLS))
    assert not set(clean(f"{dirty}a{dirty[::-1]}b{dirty}")) & (set(dirty) - {" "})
    assert clean(dirty) == ""
    assert clean("äöü ключ 日本 🙂") == "äöü ключ 日本 🙂"


@pytest.mark.parametrize(
    "sequence",
    [
        "\x1b[31m",
        "\x1b[1;38;5;208m",
        "\x1b[2J",
        "\x1b[?25l",
        "\x9b31m",
        "\x1b]0;title\x07",
        "\x1b]8;;https://example.com\x1b\\",
        "\x9d0;title\x9c",
        "\x1bPq#0\x1b\\",
        "\x1bc",
        "\x1b(B",
    ],
)
def test_escape_sequences_leave_nothing(sequence):
    """What would colour, move or retitle a terminal goes with all its parameters."""
    assert clean(f"{sequence}red{sequence} alert") == "red  alert"
    assert clean(sequence) == ""


def test_messages_are_bounded_whatever_they_are():
    """Megabytes, other types and endless nesting give some words, at once."""
    deep = nested(900)
    huge = ["x" * 10**7, "a\x00" * 10**7, "\x1b[" * 10**7, ["x"] * 10**6]
    for message in (*map(orjson.dumps, huge), deep):
        error = error_of(400, b'{"__type": "A", "message": ' + message + b"}")
        assert error.code == "A"
        assert len(str(error)) < 500
    assert error_of(400, b'{"message": "m", "__type": ' + deep + b"}").message == "m"
    assert len(clean(ValueError("x" * 10**7))) <= 401


FORMATS = ["%s", "%(a)d %n", "{0}", "{}", "{__class__}", "{0.__class__.__mro__}", "$HOME", "%", "{"]


@pytest.mark.parametrize("text", FORMATS)
def test_texts_that_look_like_formats_are_only_texts(text):
    """Nobody formats with what AWS says: a code or message with placeholders stays as it is."""
    error = error_of(400, {"__type": "Odd" + text, "message": text})
    assert (error.code, error.message) == ("Odd" + text, text)
    assert str(error) == f"{OP}: Odd{text}: {text}"
    wrong = network_error(OP, aiohttp.ClientPayloadError(text))
    assert str(wrong) == f"{OP}: ConnectionBroken: {text}"


# --- answers that are odd JSON ------------------------------------------------------------------


def test_what_json_cannot_carry_is_mended_and_marked():
    """Half pairs become U+FFFD, in values and in keys; numbers too large infinite: all places."""
    body = (
        rb'{"a": "x\ud800y", "b": [1, "\ud83d\ude00", ["\udc00"]], "\ud800c": {"d": null},'
        rb' "e": {"f\udfff": "g", "h": 1e999, "i": -18446744073709551616, "j": "ok"}}'
    )
    content = read_json(OP, answer(200, body))
    assert content == {
        "a": "x\ufffdy",
        "b": [1, "\U0001f600", ["\ufffd"]],
        "\ufffdc": {"d": None},
        "e": {"f\ufffd": "g", "h": float("inf"), "i": -(2.0**64), "j": "ok"},
    }
    assert isinstance(content, Mended)
    assert content.places == [("a",), ("b", 2, 0), ("\ufffdc",), ("e", "f\ufffd"), ("e", "h")]
    assert list(content) == ["a", "b", "\ufffdc", "e"]
    orjson.dumps(content)


def test_an_answer_that_is_whole_is_no_special_dict():
    """Ordinary JSON, also with U+FFFD and whole pairs in it, is not marked."""
    for body in ({"a": "\ufffd"}, {"a": "🙂"}, {"a": 1e300}):
        assert type(read_json(OP, answer(200, body))) is dict
        escaped = json.dumps(body).encode()
        assert type(read_json(OP, answer(200, escaped))) is dict


def test_keys_that_become_one_are_each_marked():
    """Two keys that differ in half a pair alone become one: both are counted."""
    content = read_json(OP, answer(200, rb'{"m": {"\ud800": "1", "\ud801": "2", "a": "3"}}'))
    assert content["m"] == {"\ufffd": "2", "a": "3"}
    assert content.places == [("m", "\ufffd")] * 2


def nested(levels: int, inside: bytes = b"1", opening: bytes = b'{"a":') -> bytes:
    closing = b"}" if opening.startswith(b"{") else b"]"
    return opening * levels + inside + closing * levels


@pytest.mark.parametrize("inside", [b"1", rb'"\ud800"', b"", b'"cut'])
@pytest.mark.parametrize("levels", [DEEPEST + 1, 5_000, 9_000, 1_000_000])
def test_an_answer_nested_too_deeply_is_refused_by_name(levels, inside):
    """It is no fault that a second attempt could mend, however deep it goes and whole or not."""
    for body in (nested(levels, inside), b'{"b": ' + nested(levels - 1, inside, b"[") + b"}"):
        error = error_of(200, body, x_amzn_requestid="abc-1")
        assert type(error) is RejectedError
        assert (error.code, error.status, error.request_id) == ("TooDeep", 200, "abc-1")
        assert "too deeply" in error.message


def test_depth_that_can_be_read_is_read():
    """Up to the limit of the reader, depth alone is nothing odd."""
    assert read_json(OP, answer(200, nested(DEEPEST)))["a"]
    assert type(read_json(OP, answer(200, nested(500, rb'"\ud800"')))) is Mended


def test_an_error_nested_too_deeply_is_still_that_error():
    """The status of an error answer says enough: its body is left alone."""
    assert type(error_of(503, nested(5_000))) is TransientError
    assert type(error_of(429, nested(5_000))) is ThrottledError


def test_depth_crashes_no_thread():
    """In a thread, with its smaller stack, depth is refused in the same way."""
    codes = []

    def read() -> None:
        for start in (b'{"b":1,"a":', rb'{"b":"\ud800","a":'):
            codes.append(error_of(200, start + nested(1_000_000) + b"}").code)  # noqa: PERF401

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert codes == ["TooDeep"] * 2


def test_depth_in_the_sdks_protocols_is_refused_by_name():
    """The same holds where the SDK's parser reads the answer."""

    def parse(reply: Answer) -> dict:
        return json.loads(reply.body)

    built = SimpleNamespace(template=SimpleNamespace(operation=OP), parse=parse)
    with pytest.raises(RejectedError) as caught:
        read_built(built, answer(200, nested(1_000_000)))
    assert caught.value.code == "TooDeep"
    with pytest.raises(TransientError):
        read_built(built, answer(503, nested(1_000_000)))


def test_a_number_of_many_digits_is_a_number():
    """More digits than Python likes to read as an integer make a float, as for orjson."""
    body = b'{"a": ' + b"9" * 5000 + b', "b": 1e999}'
    assert read_json(OP, answer(200, body)) == {"a": float("inf"), "b": float("inf")}


def test_megabytes_are_read_in_seconds():
    """A huge answer with one odd string in it is read like any other, only slower."""
    body = b'{"m": {' + b",".join(b'"key%d": "value"' % n for n in range(500_000))
    began = monotonic()
    content = read_json(OP, answer(200, body + rb', "odd": "\ud800"}}'))
    assert content.places == [("m", "odd")]
    assert type(error_of(200, body)) is TransientError
    assert monotonic() - began < 10


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-5", 0.0), ("1e9", 300.0), ("nan", None), ("soon", None)],
)
def test_retry_after_in_seconds(value, seconds):
    """Retry-After in seconds is read, within bounds; what is not one is left alone."""
    assert error_of(503, b"", Retry_After=value).retry_after == seconds


def test_retry_after_as_a_date():
    """Retry-After as an HTTP date gives the seconds until then, none once it has passed."""
    soon = error_of(503, b"", Retry_After=formatdate(time() + 60, usegmt=True)).retry_after
    assert 50 < soon <= 61
    assert error_of(503, b"", Retry_After=formatdate(0, usegmt=True)).retry_after == 0.0
    assert error_of(503, b"").retry_after is None


def test_not_found_is_told_from_other_refusals():
    """A refusal is 'not found' only with the right code and the right part of the message."""
    codes = (("ValidationException", "Requested resource not found"), ("ResourceNotFound", ""))
    found = as_not_found(
        RejectedError(OP, "ValidationException", "Requested resource not found.", status=400), codes
    )
    assert type(found) is NotFoundError
    assert found.status == 400
    assert type(as_not_found(RejectedError(OP, "ResourceNotFound", "x"), codes)) is NotFoundError
    other = RejectedError(OP, "ValidationException", "1 validation error detected")
    assert as_not_found(other, codes) is other


KEY = SimpleNamespace(host="h", port=443, ssl=True, is_ssl=True)


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (TimeoutError(), TransientError, "Timeout"),
        (aiohttp.ServerTimeoutError(), TransientError, "Timeout"),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(8, "x")), TransientError, "NameNotFound"),
        (aiohttp.ClientConnectorError(KEY, OSError(111, "x")), TransientError, "NoConnection"),
        (
            aiohttp.ClientConnectorCertificateError(KEY, Exception("x")),
            RejectedError,
            "UntrustedCertificate",
        ),
        (aiohttp.ServerDisconnectedError(), TransientError, "ConnectionBroken"),
        (aiohttp.ClientPayloadError("cut"), TransientError, "ConnectionBroken"),
        (ConnectionResetError(), TransientError, "ConnectionBroken"),
    ],
)
def test_network_faults_are_named(fault, kind, code):
    """A fault of the network is tried again, but for a certificate that nobody trusts."""
    assert isinstance(fault, retry.NETWORK_ERRORS)
    error = network_error(OP, fault)
    assert type(error) is kind
    assert error.code == code
    assert error.status == 0


def test_backoff_is_full_jitter_below_an_exponential():
    """The wait is drawn from zero up to a bound that doubles, up to a longest one."""
    bounds = [backoff(attempt, lambda: 1.0) for attempt in range(1, 40)]
    assert 0 < bounds[0] <= 0.5
    for number, bound in enumerate(bounds):
        assert bound == pytest.approx(min(bounds[0] * 2**number, retry.LONGEST_WAIT))
    assert backoff(5, lambda: 0.0) == 0.0
    assert backoff(10_000, lambda: 0.5) == retry.LONGEST_WAIT / 2


class Calls:
    """A call that fails with each of ``errors`` in turn, and then succeeds."""

    def __init__(self, clock, *errors: Exception) -> None:
        self.errors = list(errors)
        self.clock = clock
        self.times: list[float] = []
        self.retried: list[CallError] = []

    async def attempt(self) -> dict:
        self.times.append(self.clock())
        if self.errors:
            raise self.errors.pop(0)
        return {"ok": True}

    async def run(self, may_retry=lambda _: True, random=lambda: 1.0, longest=lambda: 1e9) -> dict:
        return await again(
            self.attempt,
            may_retry=may_retry,
            on_retry=self.retried.append,
            longest=longest,
            sleep=self.clock.sleep,
            random=random,
        )

    @property
    def waits(self) -> list[float]:
        pairs = zip(self.times, self.times[1:], strict=False)
        return [round(later - first, 6) for first, later in pairs]


async def test_again_waits_longer_each_time(clock):
    """Attempts are made until one succeeds, each after its backoff, each told of."""
    errors = [TransientError(OP, "A"), ThrottledError(OP, "B"), TransientError(OP, "C")]
    calls = Calls(clock, *errors)
    assert await calls.run() == {"ok": True}
    assert calls.waits == pytest.approx([backoff(number, lambda: 1.0) for number in (1, 2, 3)])
    assert calls.retried == errors
    assert calls.waits[0] < calls.waits[1] < calls.waits[2]


async def test_again_waits_as_long_as_the_service_asks(clock):
    """Retry-After is waited for where it is longer than the backoff."""
    calls = Calls(
        clock,
        ThrottledError(OP, "A", retry_after=7.0),
        ThrottledError(OP, "A", retry_after=0.01),
    )
    await calls.run()
    assert calls.waits == pytest.approx([7.0, backoff(2, lambda: 1.0)])


async def test_no_wait_is_longer_than_allowed(clock):
    """Neither what the service asks for nor the backoff goes beyond what is left."""
    left = [5.0, 0.05, 0.0]
    calls = Calls(
        clock,
        ThrottledError(OP, "A", retry_after=300.0),
        TransientError(OP, "B"),
        TransientError(OP, "C", retry_after=300.0),
    )
    await calls.run(longest=lambda: left.pop(0))
    assert calls.waits == pytest.approx([5.0, 0.05, 0.0])


async def test_repairs_are_not_waited_for(clock):
    """New credentials or a corrected clock are tried at once."""
    calls = Calls(clock, ExpiredError(OP, "A"), ClockError(OP, "B"))
    await calls.run()
    assert calls.waits == [0.0, 0.0]


async def test_again_stops_when_told(clock):
    """Once ``may_retry`` says no, the last error is raised as it is, and no sleep follows."""
    last = TransientError(OP, "C")
    calls = Calls(clock, TransientError(OP, "A"), TransientError(OP, "B"), last)
    with pytest.raises(TransientError) as caught:
        await calls.run(may_retry=lambda error: error is not last)
    assert caught.value is last
    assert len(calls.times) == 3
    assert len(calls.retried) == 2
    assert sum(calls.waits) == clock() > 0


@pytest.mark.parametrize("error", [DeniedError(OP, "A"), RejectedError(OP, "B"), ValueError("x")])
async def test_other_errors_are_not_tried_again(clock, error):
    """What a second attempt cannot mend passes through at once."""
    calls = Calls(clock, error)
    with pytest.raises(type(error)) as caught:
        await calls.run()
    assert caught.value is error
    assert (len(calls.times), calls.retried, clock()) == (1, [], 0)


async def test_again_can_be_cancelled(clock):
    """Cancelling during a wait ends the call; no further attempt is made."""
    calls = Calls(clock, *[TransientError(OP, "A")] * 5)
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    task = asyncio.create_task(
        again(
            calls.attempt,
            may_retry=lambda _: True,
            on_retry=calls.retried.append,
            longest=lambda: 1e9,
            sleep=sleep,
            random=lambda: 1.0,
        )
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(calls.times) == 1
