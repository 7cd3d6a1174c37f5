"""What the URI of an object sink says: its options, and the paths that its objects get."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import parse_qs, urlsplit

from collector.errors import ConfigurationError
from collector.parse import parse_duration, parse_size

TEMPLATE = "table={table}/dt={dt}/run={run_id}/part-{part}.ndjson"
CODECS = {"gz": ".gz", "zst": ".zst", "none": ""}
PART_BYTES, ROLL_AFTER = 128 << 20, 300.0

OF_A_PART = ("account_id", "region", "part")
OF_A_RUN = ("dt", "run_id", *OF_A_PART)
"""Names in a template that differ among the parts of a run, and among runs."""

_NAMES = ("table", "dt", "run_id", "shard", "account_id", "region", "part")
_NAME = re.compile(r"\{(.*?)\}")
_OPTIONS = ("template", "codec", "part_bytes", "roll_after", "region", "kms_key", "acl")


@dataclass(frozen=True, slots=True)
class Options:
    """What may stand in the query of the URI; ``part_bytes`` as written, ``roll_after`` seconds."""

    template: str
    part_bytes: int
    roll_after: float
    kms_key: str | None = None
    acl: str | None = None

    def path(self, names: Mapping[str, str]) -> str:
        """The path of a part."""
        return _filled(self.template, names)

    def folder(self, changing: Collection[str], names: Mapping[str, str]) -> str:
        """The folder above the first piece of a path that has one of the ``changing`` names."""
        fixed = []
        for piece in self.template.split("/")[:-1]:
            if any(f"{{{name}}}" in piece for name in changing):
                break
            fixed.append(piece)
        return _filled("/".join(fixed), names)


def _filled(template: str, names: Mapping[str, str]) -> str:
    return _NAME.sub(lambda match: names[match[1]], template)


def read_uri(uri: str) -> Options:
    """The options of a sink. Raises ConfigurationError."""
    parts = urlsplit(uri)
    given = {k: values[-1] for k, values in parse_qs(parts.query, keep_blank_values=True).items()}
    for name, value in given.items():
        if name not in _OPTIONS:
            near = get_close_matches(name, _OPTIONS, 1) or [", ".join(_OPTIONS)]
            raise ConfigurationError(f"{uri}: there is no option {name}; did you mean {near[0]}?")
        if not value:
            raise ConfigurationError(f"{uri}: {name} has no value.")
    if parts.scheme != "s3" and {"kms_key", "acl", "region"} & given.keys():
        raise ConfigurationError(f"{uri}: kms_key, acl and region are options of s3:// only.")
    if not parts.netloc and parts.scheme != "file":
        raise ConfigurationError(f"{uri} lacks the name of a bucket.")
    try:
        return Options(
            template=_template(given.get("template", TEMPLATE), given.get("codec", "gz")),
            part_bytes=parse_size(given.get("part_bytes", PART_BYTES)),
            roll_after=parse_duration(given.get("roll_after", ROLL_AFTER)),
            kms_key=given.get("kms_key"),
            acl=given.get("acl"),
        )
    except ValueError as error:
        raise ConfigurationError(f"{uri}: {error}.") from None


def _template(template: str, codec: str) -> str:
    """The template of a part's path, with its ending. Raises ValueError."""
    if codec not in CODECS:
        raise ValueError(f"codec takes {', '.join(CODECS)}, not {codec!r}")
    names = _NAME.findall(template)
    unknown = [name for name in names if name not in _NAMES]
    if unknown or {"run_id", "part"} - set(names):
        raise ValueError(
            f"template takes {', '.join('{' + name + '}' for name in _NAMES)}, and needs "
            "{run_id} and {part}"
        )
    path = template.strip("/")
    if any(piece in ("", ".", "..") for piece in path.split("/")):
        raise ValueError(
            f"template is a path with a name between every two slashes, not {template}"
        )
    return path + CODECS[codec]
