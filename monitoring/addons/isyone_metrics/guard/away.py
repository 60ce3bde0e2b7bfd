"""Answers 503 with `Retry-After` where Odoo answers 500, or signs people out and sends them to its (closed) database
selector: while the database is away for a moment, or all connections of the process are taken.

The answer hangs on the exception itself, where Odoo's dispatchers leave it alone, whatever kind of request it was.
"""

import functools
import logging

from .. import layout

# Seconds after which a browser, or a program, asks again.
RETRY_SECONDS = 5
# PostgreSQL's codes for "not now": shutting down, crashed, starting, too many connections; class 08 is the connection.
_NOT_NOW = ("57P01", "57P02", "57P03", "53300")
# Answers by itself, so that a database that is away does not look like an Odoo that is.
_HEALTH = "/web/health"

_PAGE = (
    '<!doctype html><html><head><meta charset="utf-8"><meta http-equiv="refresh" content="{seconds}">'
    '<title>One moment</title></head><body style="font-family:sans-serif;margin:4em auto;max-width:32em">'
    "<h1>One moment</h1><p>The system is busy or starting. This page tries again by itself.</p>"
    '<h1 lang="pt-BR">Um momento</h1><p lang="pt-BR">O sistema está ocupado ou iniciando. Esta página tenta de novo '
    "sozinha.</p></body></html>\n"
).format(seconds=RETRY_SECONDS)
_LINE = "The system is busy or starting; try again in a moment.\n"


def answer(environ, start_response):
    """A WSGI application: the page for who reads it, a line for programs."""
    reads = environ.get("REQUEST_METHOD") == "GET" and "text/html" in environ.get("HTTP_ACCEPT", "")
    body = (_PAGE if reads else _LINE).encode()
    start_response("503 SERVICE UNAVAILABLE", [
        ("Content-Type", "text/html; charset=utf-8" if reads else "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))), ("Retry-After", str(RETRY_SECONDS)), ("Cache-Control", "no-store"),
    ])
    return [body] if environ.get("REQUEST_METHOD") != "HEAD" else [b""]


class Unavailable(Exception):
    """The database is away for a moment."""

    loglevel = logging.WARNING  # Odoo logs one line, not a traceback for each visitor

    def error_response(self, environ, start_response):
        """What Odoo answers with."""
        return answer(environ, start_response)


def busy(base):
    """The class of the same for a full pool; `base` is what Odoo raises, and its bus knows."""
    return type("PoolBusy", (Unavailable, base), {"__doc__": "Every connection of this process is taken."})


def is_away(error, psycopg2):
    """Whether an error says that there is no connection, rather than something about a query."""
    if isinstance(error, psycopg2.InterfaceError):
        return "closed" in str(error)
    if not isinstance(error, psycopg2.OperationalError):
        return False
    code = error.pgcode
    return code is None or code in _NOT_NOW or code.startswith("08")


def answer_for_database(request_class, registry_error, psycopg2, recorder):
    """Around the serving of a request with its database."""
    original = request_class._serve_db

    @functools.wraps(original)
    def serve(self):
        try:
            return original(self)
        except (registry_error, psycopg2.Error) as error:
            cause = error.__cause__ if isinstance(error, registry_error) else error
            if isinstance(cause, Unavailable) or not is_away(cause, psycopg2) or self.httprequest.path == _HEALTH:
                raise
            recorder.add(layout.DATABASE_AWAY)
            # One line: the rest names addresses and users.
            why = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            raise Unavailable(f"the database is away: {why}") from None

    request_class._serve_db = serve


def know_the_database(http, names):
    """Requests without a session ask PostgreSQL which databases there are, each on a connection to another database than the
    tenant's, and go to the selector when it does not answer. There is one, and odoo.conf names it. `http` is the module
    `odoo.http`, `names` what odoo.conf says."""
    names = [names] if isinstance(names, str) else list(names or ())
    if len(names) != 1 or "," in names[0]:
        raise LookupError("odoo.conf does not name one database")
    original = http.db_list

    @functools.wraps(original)
    def db_list(force=False, host=None):
        return http.db_filter(names, host) if force else original(force, host)

    http.db_list = db_list
