"""The name of a source as others may read it: without what only its owner should know.

A password in a URL may hold every character that ends a part of a URL; people write it as it is.
So what is hidden is rather too much than too little: all up to the last @, every value of a query.
"""

from __future__ import annotations

import re

HIDDEN = "***"
SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
SECRET = r"[\w.:-]*(?:pw|pass|secret|token|auth|key|cred)[\w-]*"  # names of what is not to be seen
VALUE = r"""(?:\([^)]*\)\s*)?(?:"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?|[^\s!&/?;]*)"""

QUOTED_URL = re.compile(rf"""(?P<quote>["'])(?P<url>{SCHEME}.*?)(?P=quote)""", re.S)
BARE_URL = re.compile(rf"{SCHEME}[^\s\"']*")
NAMED_SECRET = re.compile(rf"({SECRET}\s*=\s*){VALUE}", re.I)
QUERY_VALUE = re.compile(r"([^&;=]*=)?[^&;]+")


def redacted(spec: str) -> str:
    """The spec without passwords and what may be one: a URL, or a pipeline with URLs in it."""
    if re.match(SCHEME, spec):
        return _hidden_in_url(spec)
    spec = QUOTED_URL.sub(lambda m: m["quote"] + _hidden_in_url(m["url"]) + m["quote"], spec)
    spec = BARE_URL.sub(lambda m: _hidden_in_url(m[0]), spec)
    return NAMED_SECRET.sub(rf"\1{HIDDEN}", spec)


def _hidden_in_url(url: str) -> str:
    scheme, _, rest = url.partition("//")
    before, at, after = rest.rpartition("@")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if at and ("@" in authority or ":" in before):
        rest = f"{HIDDEN}@{after}"
    path, mark, query = rest.partition("?")
    path = NAMED_SECRET.sub(rf"\1{HIDDEN}", path)
    if "?" in before and not mark:  # that @ may have been the query's
        path, mark, query, *_ = *re.split(r"([&;])", path, maxsplit=1), "", ""
    query = QUERY_VALUE.sub(lambda m: f"{m[1] or ''}{HIDDEN}", query)
    return f"{scheme}//{path}{mark}{query}"
