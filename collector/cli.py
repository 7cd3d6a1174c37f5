"""The command line. Imports little: `collector --help` must answer at once.

The options of `run` (and `plan`, `demo`) are made from the settings, when they are asked for.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import collector

_CALLER = "000000000000"
_FORMATS = ("json-schema", "arrow", "spark", "athena", "bigquery", "duckdb", "markdown",
            "athena-latest")  # fmt: skip
_NOT_IN_DEMO = ("accounts", "role_name", "external_id", "role_session_name", "include_ou",
                "exclude_accounts", "regions", "profile", "endpoint_url", "table")  # fmt: skip
_WHOLE = ("sink", "sink_header")


class SettingsCommand(click.Command):
    """A command whose options are the settings, without importing them until it is used."""

    def __init__(
        self,
        *args: Any,
        without: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._without = without
        self._made = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self._made:
            from collector.settings import setting_fields  # noqa: PLC0415

            self._made = True
            self.params.extend(
                _option(name, field)
                for name, field in setting_fields().items()
                if name not in self._without
            )
        return super().get_params(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            entry = param.get_help_record(ctx)
            if entry is not None:
                groups.setdefault(getattr(param, "group", "Options"), []).append(entry)
        for group, entries in groups.items():
            with formatter.section(group):
                formatter.write_dl(entries)


class _Option(click.Option):
    group = "Options"


def _option(name: str, field: Any) -> click.Option:
    """The option of one setting. Its value is checked with all the others, by the settings."""
    from collector.completion import completer  # noqa: PLC0415

    extra = field.json_schema_extra
    flag = "--" + name.replace("_", "-")
    boolean = field.annotation is bool
    choices = "|".join(map(str, getattr(field.annotation, "__args__", ())))
    option = _Option(
        [f"{flag}/--no-{flag[2:]}" if boolean else flag],
        default=None,
        is_flag=boolean,
        multiple=extra["many"],
        metavar=None if boolean else extra["metavar"] or choices,
        shell_complete=None if boolean else completer(name, field),
        help=f"{field.description}{_default(field.default, extra['metavar'])}",
    )
    option.group = extra["group"]
    return option


def _default(value: Any, metavar: str) -> str:
    if value in (None, False, (), {}):
        return ""
    if isinstance(value, tuple):
        value = ", ".join(value)
    return f"  [{value:g}s]" if metavar == "D" else f"  [{value}]"


def _flags(params: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line; a repeated option is a list."""
    flags = {}
    for name, value in params.items():
        if value is None or value == ():
            continue
        if isinstance(value, tuple):
            # URIs and headers may hold commas; what else is repeated may as well be a comma list.
            flags[name] = list(value) if name in _WHOLE else ",".join(value)
        else:
            flags[name] = value
    return flags


def _settings(params: dict[str, Any], config: Path | None) -> Any:
    from collector.settings import load_settings, unknown_variables  # noqa: PLC0415

    settings = load_settings(_flags(params), file=config, environ=os.environ)
    for name in unknown_variables(os.environ):
        click.echo(f"collector: {name} is set, but there is no such setting.", err=True)
    return settings


def _guarded(action: Callable[[], int]) -> None:
    """Run ``action`` and exit with what it returns, or with its error in one sentence."""
    from collector.errors import CollectorError  # noqa: PLC0415

    debug = "debug" in sys.argv or os.environ.get("COLLECTOR_LOG_LEVEL") == "debug"
    try:
        sys.exit(action())
    except CollectorError as error:
        message, status = str(error), error.exit_status
        trace: Exception | None = error if debug else None
    except KeyboardInterrupt:
        sys.exit(130)  # before there was a run to stop; click would say 1
    except (click.ClickException, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - nobody is to read a traceback who did not ask
        message = f"Unexpected {type(error).__name__}: {error} (--log-level debug shows where)."
        message, status, trace = " ".join(message.split()), 1, error if debug else None
    if trace is not None:
        traceback.print_exception(trace)
    for line in message.splitlines():
        click.echo(f"collector: {line}{'' if line.endswith(('.', '?')) else '.'}", err=True)
    sys.exit(status)


_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="COLLECTOR_CONFIG",
    metavar="FILE",
    help="YAML file of settings; see config/collector.yaml.",
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 complete, 1 nothing could be done, 2 bad usage, 3 incomplete, "
    "130 and 143 stopped by SIGINT and SIGTERM.",
)
@click.version_option(collector.__version__, prog_name="collector")
def cli() -> None:
    """Crawl AWS accounts and regions for SageMaker training jobs, as NDJSON on stdout."""


@cli.command(
    cls=SettingsCommand,
    epilog="""\b
Examples:
  collector run --regions us-east-1 --created-after 90d > jobs.ndjson
  collector run --sink jobs.ndjson.zst --state ~/.local/state/collector
  collector run --accounts organization --role-name InventoryReader \\
    --sink s3://my-lake/inventory/ --state s3://my-lake/state""",
)
@_CONFIG
def run(config: Path | None, **params: Any) -> None:
    """Crawl and stream records.

    Every option may also stand in the --config file or in a COLLECTOR_* variable; the command
    line wins over the environment, and that over the file.
    """

    def action() -> int:
        settings = _settings(params, config)  # first: what is wrong with it is said at once
        from collector import console  # noqa: PLC0415

        return console.run(settings)

    _guarded(action)


@cli.command(
    cls=SettingsCommand,
    epilog="""\b
Examples:
  collector plan
  collector plan --accounts organization --role-name InventoryReader --json""",
)
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def plan(config: Path | None, *, as_json: bool, **params: Any) -> None:
    """Show who is calling, what would be read and what is missing.

    Takes the options of `run`, so that the same command line says what would come of it. Makes a
    few harmless calls in each account and region; describes no job and writes nothing. Exit
    status 3 if a permission or a role is missing, with the policy to add.
    """

    def action() -> int:
        from collector import plan as preflight  # noqa: PLC0415

        return preflight.run(_settings(params, config), as_json=as_json)

    _guarded(action)


@cli.command(
    cls=SettingsCommand, without=_NOT_IN_DEMO, short_help="Run against an embedded AWS stand-in."
)
@click.option(
    "--accounts", default=3, show_default=True, type=click.IntRange(1, 999), help="Accounts."
)
@click.option(
    "--regions", default=3, show_default=True, type=click.IntRange(1, 20), help="Regions."
)
@click.option(
    "--jobs", default=20, show_default=True, type=click.IntRange(0), help="Jobs in each of them."
)
@click.option("--rate", type=float, help="Describes a second allowed in each account and region.")
@click.option(
    "--faults",
    show_default=True,
    default=0.0,
    type=click.FloatRange(0, 0.5),
    help="Share of failing calls.",
)
@click.option(
    "--latency",
    show_default=True,
    default=0.0,
    type=click.FloatRange(0),
    help="Seconds a call takes.",
)
@click.option("--seed", show_default=True, default=0, help="Another seed is another estate.")
def demo(
    *, accounts: int, regions: int, jobs: int, rate: float | None, faults: float, latency: float,
    seed: int, **params: Any,
) -> None:  # fmt: skip
    """Run against an embedded AWS stand-in: no credentials, no network."""

    def action() -> int:
        from collector import demo as stage  # noqa: PLC0415
        from collector.settings import load_settings  # noqa: PLC0415

        with stage.aws(
            accounts=accounts, regions=regions, jobs=jobs, rate=rate, faults=faults,
            latency=latency, seed=seed,
        ) as where:  # fmt: skip
            from collector import console  # noqa: PLC0415

            return console.run(load_settings({**_flags(params), **where}))

    _guarded(action)


_TABLE = click.option(
    "--table",
    default="aws_sagemaker_trainingjob",
    show_default=True,
    metavar="NAME",
    help="Which table.",
)


@cli.command()
@_TABLE
@click.option(
    "--format", "form", type=click.Choice(_FORMATS), default="json-schema", show_default=True,
    help="What to print the table as.",
)  # fmt: skip
@click.option("--extra", is_flag=True, help="With the _extra column of `run --extra keep`.")
@click.option("--meta", is_flag=True, help="With the columns of `run --meta`.")
def schema(table: str, form: str, *, extra: bool, meta: bool) -> None:
    """Print the table's columns, for a database or a program."""

    def action() -> int:
        from collector.schema import render  # noqa: PLC0415
        from collector.tables import load_table  # noqa: PLC0415

        text = render(load_table(table), form, extra=extra, meta=meta)
        click.echo(text.rstrip("\n"))
        return 0

    _guarded(action)


@cli.command(short_help="Check a file of records against the table.")
@_TABLE
@click.argument("file")
def validate(table: str, file: str) -> None:
    """Check every line of FILE (.ndjson, .gz, .zst, or - for stdin) against the table.

    Exit status 1 if a line is wrong, with its number and what is wrong.
    """

    def action() -> int:
        from collector.tables import load_table  # noqa: PLC0415
        from collector.validate import open_lines, validate_lines  # noqa: PLC0415

        wrong = 0
        for problem in validate_lines(load_table(table), open_lines(file)):
            wrong += 1
            where = f"{problem.path}: " if problem.path else ""
            click.echo(f"{file}:{problem.line}: {where}{problem.message}", err=True)
        return 1 if wrong else 0

    _guarded(action)


@cli.group()
def report() -> None:
    """Work with the reports of runs."""


@report.command()
@click.argument("reports", nargs=-1, required=True, metavar="REPORT...")
@click.option(
    "--output", metavar="URI", help="Write it here, as `run --report` does, not to stdout."
)
def merge(reports: tuple[str, ...], output: str | None) -> None:
    """Make one report of several, as of all shards.

    Each REPORT is a path, s3://, gs:// or az://. Exit status 3 if the whole is not complete: a
    part is not, or a shard is missing.
    """

    def action() -> int:
        from collector.signals import run_until_told  # noqa: PLC0415

        return run_until_told(_merged(reports, output))

    _guarded(action)


async def _merged(uris: tuple[str, ...], output: str | None) -> int:
    import json  # noqa: PLC0415

    from collector import report_file, report_merge  # noqa: PLC0415
    from collector.settings import Settings  # noqa: PLC0415

    settings = Settings()
    if output is not None:
        await report_file.check_report(output, settings)
    parts = {uri: await report_file.read_report(uri, settings) for uri in uris}
    whole = report_merge.merge(parts)
    if output is None:
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))
    else:
        await report_file.write_report(output, whole, settings)
    click.echo(f"collector: {report_merge.summary(whole, len(parts))}", err=True)
    return 0 if whole["complete"] else 3


@cli.command("iam-policy")
@_TABLE
@click.option("--caller", is_flag=True, help="The caller's policy instead of the reader role's.")
@click.option("--role-name", metavar="NAME", help="With --caller: the role that it may assume.")
@click.option(
    "--sink", "sinks", multiple=True, metavar="URI", help="With what this sink needs; repeatable."
)
@click.option("--state", metavar="URI", help="With what this state needs.")
@click.option("--report", "report_uri", metavar="URI", help="With what this report needs.")
@click.option("--trust", is_flag=True, help="The reader role's trust policy instead.")
@click.option("--principal", metavar="ARN", help="With --trust: who may assume the role.")
@click.option("--external-id", metavar="X", help="With --trust: the external id to ask for.")
@click.option("--organization-id", metavar="O", help="With --trust: the caller's organization.")
def iam_policy(
    *, table: str, role_name: str | None, principal: str | None, external_id: str | None,
    organization_id: str | None, sinks: tuple[str, ...], state: str | None,
    report_uri: str | None, caller: bool, trust: bool,
) -> None:  # fmt: skip
    """Print the least-privilege policy of the role that reads."""

    def action() -> int:
        import json  # noqa: PLC0415

        from collector import iam  # noqa: PLC0415
        from collector.errors import ConfigurationError  # noqa: PLC0415
        from collector.tables import load_table  # noqa: PLC0415

        if trust and caller:
            raise ConfigurationError("--trust and --caller are two policies: ask for one.")
        if not trust and (principal or external_id or organization_id):
            raise ConfigurationError("--principal and the ids belong to --trust.")
        if trust and (sinks or state or report_uri):
            raise ConfigurationError(
                "--sink, --state and --report belong to who runs the collector."
            )
        if trust:
            document = iam.trust_policy(principal or _CALLER, external_id, organization_id)
            if principal is None:
                # Not an account's number: what is pasted unread must not trust a stranger.
                document["Statement"][0]["Principal"]["AWS"] = "arn:aws:iam::CALLER_ACCOUNT_ID:root"
                click.echo("collector: put the caller's account id in, or --principal.", err=True)
        elif caller:
            document = iam.caller_policy(load_table(table), role_name or "ROLE_NAME")
            if role_name is None:
                click.echo("collector: put the role's name in, or give --role-name.", err=True)
        else:
            document = iam.policy(load_table(table))
        document = iam.with_delivery(document, sinks, state, report_uri)
        click.echo(json.dumps(document, indent=2))
        return 0

    _guarded(action)
