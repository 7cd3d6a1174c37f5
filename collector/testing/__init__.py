"""To test with: a fake AWS with an estate of training jobs, a clock, and what a sink must pass.

Nothing here knows the crawler, so other programs that read AWS can be tested with it as well.
"""

from collector.testing.clock import ManualClock
from collector.testing.conformance import check_sink
from collector.testing.estate import Estate
from collector.testing.faults import Faults
from collector.testing.keys import credentials_for, secret_for
from collector.testing.limits import Limits
from collector.testing.server import FakeAws
from collector.testing.world import Policy

__all__ = [
    "Estate",
    "FakeAws",
    "Faults",
    "Limits",
    "ManualClock",
    "Policy",
    "check_sink",
    "credentials_for",
    "secret_for",
]
