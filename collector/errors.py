"""Every error the collector raises, as one tree by what a person or the program does next.

    CollectorError
    ├── ConfigurationError      fix the settings (exit 2)
    ├── CredentialsError        fix the caller's credentials (exit 1)
    ├── DiscoveryError          accounts or regions could not be found (exit 1)
    ├── StateError              the state is held, damaged or out of reach (exit 1)
    ├── SinkError               fix the sink (exit 1)
    │   └── SinkClosedError     the reader of a pipe went away: end quietly
    └── CallError               one AWS call failed
        ├── ThrottledError          slow down, then again
        ├── TransientError          again
        ├── ExpiredError            refresh the credentials, then again
        ├── ClockError              correct the clock, then again
        ├── DeniedError             a permission is missing
        ├── NotEnabledError         the region or service is not there, or the credentials are bad
        ├── NotFoundError           the resource is gone
        └── RejectedError           AWS will not answer this request, however often it is asked

The message of every error is one plain sentence for a person.
"""

from __future__ import annotations


class CollectorError(Exception):
    """Root of the tree. ``exit_status`` is what the command line returns for it."""

    exit_status = 1


class ConfigurationError(CollectorError):
    """Settings, flags or a file given by the user are wrong; AWS was asked for identity at most."""

    exit_status = 2


class CredentialsError(CollectorError):
    """There are no usable credentials for the caller; nothing was read."""


class DiscoveryError(CollectorError):
    """The accounts to read could not be found out; nothing was read."""


class StateError(CollectorError):
    """The state of earlier runs cannot be used: held by another run, damaged or out of reach."""


class SinkError(CollectorError):
    """Records could not be delivered; those acknowledged before are safe."""


class SinkClosedError(SinkError):
    """The other end of the sink stopped reading, as `head` does."""

    exit_status = 0


class CallError(CollectorError):
    """One AWS call failed.

    ``code`` is AWS's error code (or the kind of network fault), ``status`` the HTTP status (0
    where none came), ``request_id`` AWS's id of the call, ``retry_after`` the seconds that the
    service asked to wait, or None; ``attempts`` counts the requests made for the call.
    """

    def __init__(
        self,
        operation: str,
        code: str,
        message: str = "",
        *,
        status: int = 0,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        self.operation = operation
        self.code = code
        self.message = message
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.attempts = 1
        super().__init__(str(self))

    def __str__(self) -> str:
        detail = f": {self.message}" if self.message else ""
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.operation}: {self.code}{detail}{request}"


class ThrottledError(CallError):
    """The rate was too high for this account, region and operation."""


class TransientError(CallError):
    """A fault of the network or of the service that may be gone next time."""


class ExpiredError(CallError):
    """The credentials of this call ran out."""


class ClockError(CallError):
    """The service says that our clock is wrong."""


class DeniedError(CallError):
    """The caller is not allowed to do this."""


class NotEnabledError(CallError):
    """The service does not know these credentials: region not enabled, or credentials bad."""


class NotFoundError(CallError):
    """The resource does not exist (any more)."""


class RejectedError(CallError):
    """The service understood the request and will not serve it."""
