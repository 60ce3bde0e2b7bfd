"""`GET /metrics`: who may read it, and the page. Who may not is not told that it exists: the request goes on to Odoo,
which answers 404 as for any other path that it does not know.
"""

import configparser
import hmac
import os

from . import database, exposition, layout

PATH = "/metrics"
# Where the token is, when neither the variable nor the configuration says so. No file: no page, for anybody.
TOKEN_VARIABLE = "ISYONE_METRICS_TOKEN_FILE"
SECTION = "isyone_metrics"
DEFAULT_TOKEN_FILE = "/etc/odoo/isyone_metrics_token"
# A shorter one is a mistake, not a secret.
MIN_TOKEN = 16
_MAX_TOKEN_BYTES = 4096
# What a proxy adds. The edge has no business here, whatever it was told to route.
_FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED")


def token_file(configuration):
    """Path of the token: the variable, then `token_file` in section `[isyone_metrics]` of odoo.conf, then a default."""
    named = os.environ.get(TOKEN_VARIABLE)
    if named:
        return named
    parser = configparser.RawConfigParser()
    try:
        parser.read([configuration] if configuration else [])
        return parser.get(SECTION, "token_file", fallback=DEFAULT_TOKEN_FILE)
    except (configparser.Error, OSError, UnicodeDecodeError):
        return DEFAULT_TOKEN_FILE


def read_token(path):
    """The token, or nothing when there is none to speak of. Read anew each time, so it can be changed."""
    try:
        with open(path, "rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).strip()
    except OSError:
        return b""
    return token if len(token) >= MIN_TOKEN else b""


def allowed(environ, path):
    """Whether a request may read the page: a GET with the token, straight from the tenant's network."""
    if environ.get("REQUEST_METHOD") != "GET" or any(environ.get(header) for header in _FORWARDED):
        return False
    scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    token = read_token(path)
    same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
    return bool(token) and same and scheme.lower() == "bearer"


class Endpoint:
    """Answers for this process, with what all of them counted."""

    def __init__(self, recorder, watch, databases, token_path, build, hooks):
        self._recorder = recorder
        self._watch = watch
        self._databases = databases
        self._token_path = token_path
        self._build = build  # labels of odoo_build_info
        self._hooks = hooks

    def answer(self, environ):
        """`(body, content type)`, or None where the request is none of ours."""
        if not allowed(environ, self._token_path):
            self._recorder.add(layout.REFUSED)
            return None
        self._recorder.add(layout.SCRAPES)
        return self.page("application/openmetrics-text" in environ.get("HTTP_ACCEPT", ""))

    def page(self, openmetrics):
        """The database is asked first, so that its errors show on the same page."""
        samples = self._watch.samples(self._databases)
        row, workers = self._recorder.segment.totals()
        text = exposition.Text(openmetrics)
        text.family("odoo_build_info", "gauge", "Versions, and how the server runs", [(self._build, 1)])
        created = self._recorder.segment.created
        text.family("odoo_start_time_seconds", "gauge", "Since when counters count, Unix time", [({}, created)])
        exposition.counted(text, row, workers)
        for metric, explanation in database.FAMILIES:
            text.family(metric, "gauge", explanation, samples.get(metric, ()))
        exposition.itself(text, row, self._hooks())
        return text.finish()
