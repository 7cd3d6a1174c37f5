"""Where a report is written to and read from: a file or an object, whole or not there."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from collector import objects
from collector.errors import CollectorError, ConfigurationError
from collector.settings import Settings

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def _path(uri: str) -> Path | None:
    """The file that ``uri`` names; None where it is an object. Raises ConfigurationError."""
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else "file"
    if scheme == "file":
        return Path(uri[match.end() :] if match else uri)
    if scheme not in objects.SCHEMES:
        raise ConfigurationError(
            f"There is no report in {scheme}://: use a path, s3://, gs:// or az://."
        )
    return None


async def check_report(uri: str, settings: Settings) -> None:
    """Raises ConfigurationError if no report could be written there: before, not after a run.

    A folder has to be there and writable. Of an object the bucket has to be there, which is asked
    without a trace and without a permission; that writing is denied shows after the run.
    """
    path = _path(uri)
    if path is None:
        objects.split_object(uri)
        try:
            if await objects.lacks_bucket(uri, settings):
                raise ConfigurationError(f"The report {uri} cannot be written: no such bucket.")
        except objects.ERRORS as error:
            raise ConfigurationError(
                f"The report {uri} cannot be written: {objects.sentence(error)}."
            ) from error
        return
    if path.is_dir():
        raise ConfigurationError(f"The report {path} is a folder: give the path of a file.")
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigurationError(f"The report {path} cannot be written: check the folder {folder}.")


async def write_report(uri: str, report: Mapping[str, Any], settings: Settings) -> None:
    """Write the report as JSON, whole or not at all. Raises CollectorError."""
    data = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    path = _path(uri)
    try:
        if path is None:
            await objects.write_object(uri, settings, data)
        else:
            _write_file(path.resolve(), data)  # a link is followed, not replaced
    except objects.ERRORS as error:
        raise CollectorError(f"Cannot write the report {uri}: {_why(error)}.") from error


def _why(error: BaseException) -> str:
    return getattr(error, "strerror", None) or objects.sentence(error)


def _write_file(path: Path, data: bytes) -> None:
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a device or a pipe, which must not be replaced by a file
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(file.name).chmod(0o666 & ~umask)
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


async def read_report(uri: str, settings: Settings) -> Any:
    """What is written there, as JSON has it. Raises ConfigurationError."""
    path = _path(uri)
    try:
        data = await objects.read_object(uri, settings) if path is None else path.read_bytes()
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"{uri} is not the report of a run.") from error
    except objects.ERRORS as error:
        raise ConfigurationError(f"The report {uri} cannot be read: {_why(error)}.") from error
