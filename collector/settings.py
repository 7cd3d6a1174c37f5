"""Every setting of a run, once: name, type, default, help. Flags and files derive from it.

`Settings(...)` reads nothing but its arguments, so a library call depends on no environment.
`load_settings` layers the command line over COLLECTOR_* variables over a YAML file over defaults.
"""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from collector.errors import ConfigurationError
from collector.model import Table
from collector.parse import (
    parse_account_ids,
    parse_accounts,
    parse_duration,
    parse_headers,
    parse_on_or_off,
    parse_optional_duration,
    parse_pairs,
    parse_path,
    parse_regions,
    parse_time,
    parse_uris,
    parse_words,
)
from collector.shards import SIZE, Shard, parse_shard, placed, with_environment
from collector.tables import DEFAULT, load_table

ENV_PREFIX = "COLLECTOR_"
METRICS = ("otel", "emf")

_ORGANIZATION_UNIT = re.compile(r"(ou-[0-9a-z]{4,32}-[0-9a-z]{8,32}|r-[0-9a-z]{4,32})")

_Layer = tuple[Callable[[str], str], dict[str, Any]]
"""How a setting is written in a place, and what stands there."""

Duration = Annotated[float, BeforeValidator(parse_duration)]
Redactions = Annotated[dict[str, Literal["values", "matching"]], BeforeValidator(parse_pairs)]
Words = Annotated[tuple[str, ...], BeforeValidator(parse_words)]


def _setting(
    default: Any, help_: str, *, group: str, metavar: str = "", name_list: bool = False
) -> Any:
    many = name_list or "," in metavar or "=" in metavar
    extra: dict[str, Any] = {"group": group, "metavar": metavar, "many": many}
    return Field(default, description=help_, json_schema_extra=extra, validate_default=False)


WHAT, HOW, WHERE, FAULTS = "What to read", "How to read", "Output", "Guarantees"
STATE, SHOWN, MEASURED = "State", "Display", "Metrics"


class Settings(BaseSettings):
    """Settings of one run; every one has a default, and none is read from the environment here.

        Settings(accounts="organization", role_name="InventoryReader", created_after="90d")

    The keywords are the options of `collector run` with underscores, and take the same text or the
    Python value: ``regions=["us-east-1"]`` or ``"us-east-1,eu-west-1"``, ``grace="20s"`` or ``20``
    (seconds), ``max_rate={"DescribeTrainingJob": 10}`` (calls a second). Times are a date, a
    timestamp (UTC unless it has an offset) or an age. Frozen; ``model_copy(update=...)`` changes
    some without checking them.

    Raises pydantic.ValidationError (a ValueError) that lists every bad setting at once.
    """

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, enable_decoding=False
    )

    table: str = _setting(DEFAULT, "Table to fill.", group=WHAT, metavar="NAME")
    accounts: Annotated[tuple[str, ...] | str, BeforeValidator(parse_accounts)] = _setting(
        "current",
        "Accounts to read: current, organization (every ACTIVE account), or a list of ids.",
        group=WHAT,
        metavar="WHICH",
        name_list=True,
    )
    role_name: str | None = _setting(
        None,
        "Role assumed in every account but the caller's own; a path may precede it (path/Name).",
        group=WHAT,
        metavar="NAME",
    )
    external_id: str | None = _setting(
        None, "External id given when the role is assumed.", group=WHAT, metavar="X"
    )
    role_session_name: str = _setting(
        "aws-resource-collector",
        "Session name of the assumed role, as CloudTrail shows it.",
        group=WHAT,
        metavar="S",
    )
    include_ou: Words = _setting(
        (),
        "With accounts=organization: only accounts below these organizational units (or roots).",
        group=WHAT,
        metavar="OU,OU",
    )
    exclude_accounts: Annotated[tuple[str, ...], BeforeValidator(parse_account_ids)] = _setting(
        (), "Accounts never to read.", group=WHAT, metavar="ID,ID"
    )
    regions: Annotated[tuple[str, ...] | str, BeforeValidator(parse_regions)] = _setting(
        "all",
        "Regions to read: all that are enabled for the account and have the service, or a list.",
        group=WHAT,
        metavar="all|R,R",
    )
    shard: Annotated[
        Shard | None, BeforeValidator(parse_shard), PlainSerializer(lambda it: it and str(it))
    ] = _setting(
        None,
        "Read only the Kth of N parts of the accounts and regions; auto takes K, and none given "
        "takes both, from the variables of an AWS Batch array job or a Kubernetes Indexed Job.",
        group=WHAT,
        metavar="K/N|auto/N|none",
    )
    created_after: str | None = _setting(
        None, "Only jobs created after this date, timestamp or age (90d).", group=WHAT, metavar="T"
    )
    created_before: str | None = _setting(
        None, "Only jobs created before this date, timestamp or age.", group=WHAT, metavar="T"
    )
    status: str | None = _setting(
        None, "Only jobs that have this status when they are listed.", group=WHAT, metavar="S"
    )
    profile: str | None = _setting(
        None, "Named AWS profile; AWS_PROFILE works as well.", group=WHAT, metavar="NAME"
    )
    endpoint_url: str | None = _setting(
        None,
        "Send every call here instead of to AWS; AWS_ENDPOINT_URL works as well.",
        group=WHAT,
        metavar="URL",
    )

    tags: Literal["bulk", "each", "none"] = _setting(
        "bulk",
        "Read tags a page at a time (bulk), one job at a time (each), or not at all (none).",
        group=HOW,
    )
    max_in_flight: int = _setting(
        128, "Calls under way at once, over all accounts and regions.", group=HOW, metavar="N"
    )
    max_rate: Annotated[dict[str, float], BeforeValidator(parse_pairs)] = _setting(
        {},
        "Calls a second of an operation, at most, in each account and region; repeatable.",
        group=HOW,
        metavar="OP=N",
    )
    headroom: float = _setting(
        1.0,
        "Share of the discovered rate to use; 0.5 leaves half to others.",
        group=HOW,
        metavar="F",
    )
    connect_timeout: Duration = _setting(
        10.0, "Longest wait for a connection.", group=HOW, metavar="D"
    )
    read_timeout: Duration = _setting(
        20.0, "Longest silence of an answer under way.", group=HOW, metavar="D"
    )
    call_timeout: Duration = _setting(60.0, "Longest call as a whole.", group=HOW, metavar="D")

    sink: Annotated[tuple[str, ...], BeforeValidator(parse_uris)] = _setting(
        ("-",),
        "Where records go: - (stdout), a path (.gz and .zst compress), s3://, gs://, az://, "
        "firehose://, kinesis://, https://; repeatable, each record goes to all.",
        group=WHERE,
        metavar="URI",
        name_list=True,
    )
    sink_header: Annotated[dict[str, str], BeforeValidator(parse_headers)] = _setting(
        {},
        "Header of requests to an https:// sink; the value env:NAME or file:PATH is read from "
        "there, as a secret should be; repeatable.",
        group=WHERE,
        metavar="NAME=VALUE",
    )
    redact: Redactions = _setting(
        {},
        "Replace a map column's values with ***: all of them (values), or those that look secret "
        "(matching); repeatable.",
        group=WHERE,
        metavar="FIELD=values|matching",
    )
    extra: Literal["drop", "keep"] = _setting(
        "drop",
        "Members that AWS returns and the table lacks: drop, or keep in _extra.",
        group=WHERE,
    )
    meta: bool = _setting(
        False, "Add _region, _collected_at and _run_id to each record.", group=WHERE
    )
    report: Annotated[str | None, BeforeValidator(parse_path)] = _setting(
        None,
        "Write the run report here, as JSON: a path, s3://, gs:// or az://.",
        group=WHERE,
        metavar="URI",
    )

    give_up_after: Duration = _setting(
        600.0,
        "How long a target may go without any success before what is left of it is failed.",
        group=FAULTS,
        metavar="D",
    )
    grace: Duration = _setting(
        20.0, "Time to finish what is under way after SIGINT or SIGTERM.", group=FAULTS, metavar="D"
    )
    allow_incomplete: bool = _setting(
        False, "Exit 0 instead of 3 when something could not be read.", group=FAULTS
    )
    retry_failed: Annotated[str | None, BeforeValidator(parse_path)] = _setting(
        None,
        "Read only the jobs that the report of an earlier run calls failed; state is left alone.",
        group=FAULTS,
        metavar="REPORT",
    )

    state: str | None = _setting(
        None,
        "Folder or object-store prefix that makes runs resumable and incremental.",
        group=STATE,
        metavar="URI",
    )
    full: bool = _setting(False, "Read every job this once, whatever the state knows.", group=STATE)
    full_every: Annotated[float | None, BeforeValidator(parse_optional_duration)] = _setting(
        None,
        "Read every job of a target whose last full crawl is older than this.",
        group=STATE,
        metavar="D",
    )
    horizon: Duration = _setting(
        60 * 86400.0,
        "Age after which a job no longer changes; an incremental run lists no older ones.",
        group=STATE,
        metavar="D",
    )
    overlap: Duration = _setting(
        900.0,
        "How long a change may take to show in a list; an incremental run looks back so far.",
        group=STATE,
        metavar="D",
    )

    progress: Annotated[Literal["auto", "on", "off"], BeforeValidator(parse_on_or_off)] = _setting(
        "auto", "Progress bar on stderr; auto shows it on a terminal.", group=SHOWN
    )
    log_format: Literal["auto", "json", "console"] = _setting(
        "auto", "Form of the log on stderr; auto is console on a terminal.", group=SHOWN
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "Least level that is logged; debug adds tracebacks.", group=SHOWN
    )

    metrics: Words = _setting(
        (),
        "Metrics for OpenTelemetry (otel, with traces; set up by OTEL_ variables), or as lines "
        "that CloudWatch Logs reads metrics from (emf); repeatable.",
        group=MEASURED,
        metavar="otel|emf",
        name_list=True,
    )
    metrics_file: Path | None = _setting(
        None,
        "With metrics=emf: append the lines to this file instead of writing them to stderr.",
        group=MEASURED,
        metavar="FILE",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @field_validator("table")
    @classmethod
    def _known_table(cls, value: str) -> str:
        try:
            load_table(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("include_ou")
    @classmethod
    def _organization_units(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for unit in value:
            if not _ORGANIZATION_UNIT.fullmatch(unit):
                raise ValueError(f"{unit!r} is not the id of an organizational unit or root")
        return value

    @field_validator("role_name")
    @classmethod
    def _role(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("arn:"):
            raise ValueError("takes the role's name (Name or path/Name), not its ARN")
        if value is not None and not re.fullmatch(
            r"/?([\x21-\x7e]+/)*[\w+=,.@-]{1,64}", value, re.ASCII
        ):
            raise ValueError(
                f"{value!r} is not the name of a role (give Name or path/Name, not an ARN)"
            )
        return value.lstrip("/") if value else value

    @field_validator("role_session_name")
    @classmethod
    def _session_name(cls, value: str) -> str:
        if not re.fullmatch(r"[\w+=,.@-]{2,64}", value, re.ASCII):
            raise ValueError("takes 2 to 64 letters, digits and any of +=,.@_-")
        return value

    @field_validator("external_id")
    @classmethod
    def _external(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w+=,.@:/-]{2,1224}", value, re.ASCII):
            raise ValueError("takes 2 to 1224 letters, digits and any of +=,.@:/_-")
        return value

    @field_validator("created_after", "created_before", mode="before")
    @classmethod
    def _time(cls, value: object) -> object:
        if value is None:
            return None
        # YAML makes dates and datetimes of what looks like them.
        text = value.isoformat() if hasattr(value, "isoformat") else value
        if not isinstance(text, str):
            raise ValueError(f"{value!r} is not a date, a timestamp or an age")  # noqa: TRY004
        parse_time(text, 0.0)
        return text

    @field_validator("max_in_flight")
    @classmethod
    def _in_flight(cls, value: int) -> int:
        if not 1 <= value <= 10_000:  # noqa: PLR2004
            raise ValueError("takes 1 to 10000")
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/\s]+", value):
            raise ValueError("takes a URL that begins with http:// or https://")
        return value

    @field_validator("headroom")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 < value <= 1:
            raise ValueError("takes a number above 0, up to 1")
        return value

    @field_validator("max_rate")
    @classmethod
    def _rates(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        known = _table_of(info).operations
        for operation, rate in value.items():
            if operation not in known:
                near = difflib.get_close_matches(operation, known, 1) or [", ".join(known)]
                raise ValueError(f"there is no operation {operation!r}; did you mean {near[0]}?")
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(f"{operation} takes a number of calls a second above 0")
        return value

    @field_validator("status")
    @classmethod
    def _known_status(cls, value: str | None, info: ValidationInfo) -> str | None:
        known = _table_of(info).statuses
        if value is not None and value not in known:
            raise ValueError(f"{value!r} is not one of {', '.join(known)}")
        return value

    @field_validator("redact")
    @classmethod
    def _redactable(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        known = _table_of(info).sensitive
        for column in value:
            if column not in known:
                raise ValueError(f"takes {' and '.join(known)}, not {column!r}")
        return value

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in METRICS:
                raise ValueError(f"takes {' and '.join(METRICS)}, not {name!r}")
        return value

    @field_validator("connect_timeout", "read_timeout", "call_timeout")
    @classmethod
    def _some_time(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("takes a time above 0")
        return value

    @field_validator("state")
    @classmethod
    def _state_place(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("is empty; give a folder, or leave it out")
        return value

    @field_validator("report", "retry_failed")
    @classmethod
    def _report_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value == "":
            raise ValueError("is empty; give a path, or leave it out")
        return value and placed(value, info.data.get("shard"))

    @field_validator("sink")
    @classmethod
    def _sinks(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value or "" in value:
            raise ValueError("is empty; give - for stdout, or a path")
        if len(set(value)) < len(value):
            raise ValueError("names one place twice")
        return tuple(placed(uri, info.data.get("shard")) for uri in value)

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.accounts == "organization" and not self.role_name:
            raise ValueError(
                "accounts=organization needs role_name, the role to assume in each account"
            )
        if self.include_ou and self.accounts != "organization":
            raise ValueError("include_ou narrows accounts=organization only")
        if self.metrics_file and "emf" not in self.metrics:
            raise ValueError("metrics_file is for metrics=emf only")
        now = time.time()
        if (
            self.created_after
            and self.created_before
            and (parse_time(self.created_after, now) >= parse_time(self.created_before, now))
        ):
            raise ValueError(
                f"created_after={self.created_after} is not before "
                f"created_before={self.created_before}: no job can be between them"
            )
        return self


def _table_of(info: ValidationInfo) -> Table:
    return load_table(info.data.get("table", DEFAULT))


def load_settings(
    flags: Mapping[str, Any],
    *,
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from ``flags`` over ``environ`` (COLLECTOR_*) over a YAML ``file`` over defaults.

    Where none of them says which shard this is, ``environ`` may (see `collector.shards`). Raises
    ConfigurationError that names every unknown or bad key, and where it stands.
    """
    layers: tuple[_Layer, ...] = (
        (lambda path: "--" + path.replace("_", "-"), dict(flags)),
        (lambda path: ENV_PREFIX + path.upper(), _from_environment(environ or {})),
        (lambda path: f"{file}: {path}", _from_file(file) if file else {}),
    )
    return _checked(layers, environ or {})


def settings_from(values: Mapping[str, Any], spelled: Callable[[str], str]) -> Settings:
    """Settings from ``values`` alone; ``spelled`` says how a setting's name is written there.

    Raises ConfigurationError that names every bad one.
    """
    return _checked(((spelled, dict(values)),), {})


def _checked(layers: tuple[_Layer, ...], environ: Mapping[str, str]) -> Settings:
    """Settings of ``layers``, the first of which wins, and of a shard that ``environ`` names."""
    values: dict[str, Any] = {}
    for _, layer in reversed(layers):
        values.update(layer)
    values["shard"] = with_environment(values.get("shard"), environ)
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = [_explain(item, layers) for item in error.errors()]
        raise ConfigurationError("\n".join(dict.fromkeys(lines))) from error


def setting_fields() -> dict[str, FieldInfo]:
    """Every setting by name, in the order of the help."""
    return dict(Settings.model_fields)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """COLLECTOR_* variables that are no setting, for a warning.

    Not an error: Kubernetes itself sets such variables for a Service called "collector".
    """
    known = {SIZE, *(f"{ENV_PREFIX}{name.upper()}" for name in (*setting_fields(), "config"))}
    return sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in known)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    source.env_vars = {key.lower(): value for key, value in environ.items() if value != ""}
    return dict(source())


def _from_file(file: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the settings file {file}: {error.strerror}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigurationError(f"The settings file {file}{line} is not valid YAML.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"The settings file {file} must hold a mapping of settings.")
    # A key without a value is a default left open, not a wrong value.
    return {str(k).replace("-", "_"): v for k, v in content.items() if v is not None}


_KINDS = {
    "bool_parsing": "takes true or false",
    "bool_type": "takes true or false",
    "float_parsing": "takes a number",
    "float_type": "takes a number",
    "int_from_float": "takes a whole number",
    "int_parsing": "takes a whole number",
    "int_type": "takes a whole number",
    "string_type": "takes text",
    "dict_type": "takes NAME=VALUE",
}


def _explain(item: Any, layers: Iterable[_Layer]) -> str:
    """One sentence for one pydantic error: where the value stands and what is wrong with it."""
    message = _KINDS.get(item["type"], str(item["msg"]).removeprefix("Value error, "))
    if item["type"] == "literal_error":
        message = f"takes {item['ctx']['expected']}"
    if not item["loc"]:
        return f"{message}."
    name = str(item["loc"][0])
    path = ".".join(str(part) for part in item["loc"] if "[" not in str(part))
    where = path
    for place, values in layers:
        if name in values:
            where = place(path)
            break
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, setting_fields(), 1)
        message = "no such setting" + (f", did you mean {near[0]}?" if near else "")
    return f"{where}: {message}" + ("" if message.endswith(("?", ".")) else ".")
