"""Speaks with the mail server of odoo.conf as that was told: encrypted from the first byte on where it wants that, which Odoo's own
options cannot say (`smtp_ssl` is STARTTLS); with a certificate that is looked at, which Odoo does not; and so many messages a day.

Odoo's own servers (`ir.mail_server`), which people set, are spoken with as ever, unless they name the same place.
"""

import configparser
import datetime
import fcntl
import os
import smtplib
import ssl

# Section of odoo.conf that is ours; Odoo leaves it alone.
SECTION = "isyone"
# Where messages are counted, in Odoo's directory of data.
COUNTER = "isyone_mail"
# Most that the counter's file is read of.
_MOST_BYTES = 64


def _place(host, port):
    """A server, by whatever way its name is written."""
    return str(host).rstrip(".").casefold(), port


class Told:
    """What odoo.conf says of its mail server besides Odoo's own options."""

    def __init__(self, host, port, tls="none", verify=True, per_day=0):
        self.place = _place(host, port)
        self.tls = tls
        self.verify = verify
        self.per_day = per_day

    def context(self):
        """How a connection to it is encrypted."""
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def read(path, host, port):
    """What the file says, or `None` if it says nothing of ours."""
    parser = configparser.RawConfigParser()
    parser.read([path])
    if not host or not parser.has_section(SECTION):
        return None
    own = parser[SECTION]
    return Told(
        host,
        int(port),
        own.get("mail_tls", "none"),
        own.get("mail_verify", "True") != "False",
        own.getint("mail_per_day", 0),
    )


class Allowance:
    """How many messages may still go today (UTC), in all processes together."""

    def __init__(self, path, per_day, today=None):
        self.path = path
        self.per_day = per_day
        self.today = today or (lambda: datetime.datetime.now(datetime.timezone.utc).date().isoformat())

    def take(self, messages):
        """Counts them. Raises an error of SMTP where that would be too many."""
        if self.per_day <= 0:
            return
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            day, _, count = file.read(_MOST_BYTES).partition(" ")
            today = self.today()
            sent = int(count) if day == today and count.strip().isdigit() else 0
            if sent + messages > self.per_day:
                raise smtplib.SMTPDataError(
                    452, f"4.5.3 this database has sent {sent} of {self.per_day} messages that it may send today (UTC)".encode()
                )
            file.seek(0)
            file.truncate()
            file.write(f"{today} {sent + messages}")


class _View:
    """The library as Odoo's mail servers see it: other connections to the place that was told, all else as it is."""

    def __init__(self, library, told, allowance):
        self._library = library
        self._told = told
        self._classes = _connections(library, told, allowance)

    def __getattr__(self, name):
        return getattr(self._library, name)

    def _of(self, name, host, port, arguments, named):
        if _place(host, port) != self._told.place:
            return getattr(self._library, name)(host, port, *arguments, **named)
        encrypted = self._told.tls == "tls" or name == "SMTP_SSL"
        if not encrypted:
            named.pop("context", None)
        elif not named.get("context"):
            named["context"] = self._told.context()
        return self._classes[encrypted](host, port, *arguments, **named)

    def SMTP(self, host="", port=0, *arguments, **named):
        return self._of("SMTP", host, port, arguments, named)

    def SMTP_SSL(self, host="", port=0, *arguments, **named):
        return self._of("SMTP_SSL", host, port, arguments, named)


def _connections(library, told, allowance):
    """The library's two classes of connections, by whether they are encrypted from the start."""

    class Counted:
        def send_message(self, msg, from_addr=None, to_addrs=None, *arguments, **named):
            recipients = [to_addrs] if isinstance(to_addrs, str) else to_addrs
            allowance.take(max(len(recipients or ()), 1))
            return super().send_message(msg, from_addr, to_addrs, *arguments, **named)

    class Plain(Counted, library.SMTP):
        def starttls(self, *, context=None):
            return super().starttls(context=context or told.context())

    class Encrypted(Counted, library.SMTP_SSL):
        def starttls(self, *, context=None):
            return (220, b"encrypted already")

    return {False: Plain, True: Encrypted}


def speak_as_told(place, told, allowance):
    """`place`: Odoo's module with the mail servers."""
    if told:
        place.smtplib = _View(place.smtplib, told, allowance)
