"""What the text of a URL tells: whether it is one, what can read it, and what of it may be shown.

Imports fsspec only when a scheme is looked up.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit, urlunsplit

from distgan.errors import DataError

EXTRAS = {"https": "http", "http": "http", "s3": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"}
LOCAL = ("file", "local")
HTTP = ("http://", "https://")
_URL = re.compile(r"""[A-Za-z][\w+.-]*://(?:(?!,[A-Za-z][\w+.-]*://)[^\s'"<>])+""")
"""In a text, or in a list without quotes. A comma alone may be of a password or of a query."""
_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:\d*)?")
"""With or without a port."""


def is_remote(spec: str) -> bool:
    """Whether `spec` is a URL or a `pipe:COMMAND` and no local path; `file://` is local."""
    scheme = re.match(r"([A-Za-z][\w+.:-]*)://", spec)
    return spec.startswith("pipe:") or (scheme is not None and scheme[1].lower() not in LOCAL)


def shown(url: str) -> str:
    """A place as messages may show it: a URL without query, fragment, user and password; a command without its options;
    a path as it is. A `/`, `?` or `#` in a password is told from the end of the host where the password begins with no
    number."""
    if url.startswith("pipe:"):
        words = url.removeprefix("pipe:").split()
        telling = [masked(w.strip("'\"")) for w in words[1:] if "://" in w or re.search(r"\.(tar|json|npy)\b", w)]
        return " ".join(["pipe:" + "".join(words[:1]), *telling])
    return _without_login(url) if is_remote(url) else masked(url)


def masked(text: str) -> str:
    """A text in which every URL is as messages may show it."""
    return _URL.sub(lambda found: _without_login(found[0]), text)


def _without_login(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    if scheme.lower() in LOCAL:
        return url
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and not _HOST.fullmatch(authority):
        rest = rest.rpartition("@")[2]
    host, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    return scheme + mark + host.rpartition("@")[2] + slash + masked(path)


def check_url(url: str, allow_shell: bool) -> None:
    """Raises `DataError` for a scheme that is unknown or not installed, and for `pipe:` without `allow_shell`. Any path
    is good."""
    if not is_remote(url):
        return
    if url.startswith("pipe:"):
        if not allow_shell:
            raise DataError(f"{shown(url)}: shell commands are not run unless data.allow_shell is true")
        return
    scheme = url.partition("://")[0].lower()
    known = ", ".join((*EXTRAS, "pipe"))
    try:
        from fsspec.registry import get_filesystem_class

        get_filesystem_class(scheme)
    except ImportError:
        package = f"'distgan[{EXTRAS[scheme]}]'" if scheme in EXTRAS else "the fsspec package for it"
        raise DataError(f"{shown(url)}: {scheme}:// cannot be read yet; pip install {package}") from None
    except ValueError:
        raise DataError(f"{shown(url)}: unknown scheme {scheme!r}; give one of {known}, or another of fsspec") from None


def join_url(folder_url: str, name: str) -> str:
    """The URL of a file in a folder. A query (a signature for the whole folder) stays behind the path."""
    if folder_url.startswith("pipe:"):
        raise DataError(f"{shown(folder_url)}: a command is no folder; give a command for each shard")
    if folder_url.lower().startswith(HTTP):
        parts = urlsplit(folder_url)
        return urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/" + quote(name)))
    return folder_url.rstrip("/") + "/" + name
