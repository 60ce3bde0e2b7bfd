"""The guard's mend of mail: against a server that listens, and with a day's limit."""

import email.message
import smtplib
import socket
import subprocess
import ssl
import tempfile
import threading
import types
import unittest
from pathlib import Path

import context  # noqa: F401
from isyone_metrics.guard import mail


class Server:
    """Takes mail; encrypted from the first byte on, or when it is asked."""

    def __init__(self, certificate, implicit):
        self.taken = []
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate)
        self.implicit = implicit
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            connection, _ = self.listener.accept()
            try:
                if self.implicit:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                self._converse(connection)
            except (OSError, ValueError):
                pass
            finally:
                connection.close()

    def _converse(self, connection):
        def say(text):
            connection.sendall(text.encode() + b"\r\n")

        say("220 here")
        lines = connection.makefile("rb")
        while line := lines.readline():
            word = line.strip().upper()
            if word.startswith(b"EHLO"):
                say("250-here\r\n250 STARTTLS")
            elif word == b"STARTTLS":
                say("220 go")
                connection = self.tls.wrap_socket(connection, server_side=True)
                lines = connection.makefile("rb")
            elif word == b"DATA":
                say("354 go")
                text = b""
                while (line := lines.readline()) != b".\r\n":
                    text += line
                self.taken.append((isinstance(connection, ssl.SSLSocket), text))
                say("250 ok")
            elif word == b"QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")


def message():
    """A short one."""
    text = email.message.EmailMessage()
    text["From"], text["To"], text["Subject"] = "a@x.example", "b@y.example", "hello"
    text.set_content("x")
    return text


class Speaking(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        key, cls.certificate = Path(cls.directory.name, "key"), Path(cls.directory.name, "both")
        made = Path(cls.directory.name, "certificate")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", made],
            check=True, capture_output=True,
        )
        cls.certificate.write_text(key.read_text() + made.read_text())
        cls.authority = made

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def place(self, port, tls, verify=True, per_day=0, trust=False):
        """A stand-in for Odoo's module."""
        told = mail.Told("127.0.0.1", port, tls, verify, per_day)
        if trust:
            known = ssl.create_default_context(cafile=self.authority)
            told.context = lambda: known
        counter = Path(self.directory.name, f"counter-{port}")
        place = types.SimpleNamespace(smtplib=smtplib)
        mail.speak_as_told(place, told, mail.Allowance(counter, per_day))
        return place

    def send(self, place, port, starttls, host="127.0.0.1"):
        """As `ir.mail_server` does with the server of odoo.conf."""
        connection = place.smtplib.SMTP(host, port, timeout=10)
        if starttls:
            connection.starttls(context=None)
        connection.ehlo_or_helo_if_needed()
        connection.send_message(message(), "a@x.example", ["b@y.example", "c@y.example"])
        connection.quit()

    def test_encrypted_from_the_first_byte_where_odoo_cannot_say_so(self):
        server = Server(self.certificate, implicit=True)
        self.send(self.place(server.port, "tls", trust=True), server.port, starttls=False)
        self.assertTrue(server.taken[0][0])

    def test_a_certificate_that_nobody_knows_is_refused_unless_it_was_said(self):
        for tls, implicit in (("starttls", False), ("tls", True)):
            server = Server(self.certificate, implicit)
            with self.assertRaises(ssl.SSLCertVerificationError):
                self.send(self.place(server.port, tls), server.port, starttls=not implicit)
            self.assertEqual(server.taken, [])
            self.send(self.place(server.port, tls, verify=False), server.port, starttls=not implicit)
            self.assertTrue(server.taken[0][0])

    def test_other_servers_are_spoken_with_as_ever(self):
        server = Server(self.certificate, implicit=False)
        place = self.place(1, "tls", per_day=1)
        for _ in range(3):
            self.send(place, server.port, starttls=False)
        self.assertEqual([encrypted for encrypted, _ in server.taken], [False] * 3)
        self.assertIs(place.smtplib.SMTPException, smtplib.SMTPException)
        self.assertIn("SMTP_SSL", place.smtplib.__all__)

    def test_a_day_has_so_many_recipients_in_all_processes(self):
        server = Server(self.certificate, implicit=False)
        place = self.place(server.port, "none", per_day=5)
        self.send(place, server.port, starttls=False)
        self.send(place, server.port, starttls=False)
        with self.assertRaises(smtplib.SMTPDataError) as refused:
            self.send(place, server.port, starttls=False)
        self.assertIn(b"4 of 5 messages", refused.exception.smtp_error)
        self.assertEqual(len(server.taken), 2)
        path = Path(self.directory.name, f"counter-{server.port}")
        tomorrow = mail.Allowance(path, 5, today=lambda: "2999-01-01")
        tomorrow.take(5)
        with self.assertRaises(smtplib.SMTPDataError):
            tomorrow.take(1)
        path.write_text("nonsense")
        tomorrow.take(1)

    def test_another_way_to_write_its_name_is_no_way_round_the_limit(self):
        server = Server(self.certificate, implicit=False)
        told = mail.Told("localhost", server.port, per_day=2)
        counter = Path(self.directory.name, f"counter-{server.port}")
        place = types.SimpleNamespace(smtplib=smtplib)
        mail.speak_as_told(place, told, mail.Allowance(counter, 2))
        self.send(place, server.port, starttls=False, host="localhost")
        for host in ("localhost", "LocalHost"):
            with self.assertRaises(smtplib.SMTPDataError):
                self.send(place, server.port, starttls=False, host=host)
        self.assertEqual(len(server.taken), 1)
        # Names with a last dot are not everywhere looked up.
        self.assertEqual(mail.Told("LocalHost.", 25).place, mail.Told("localhost", 25).place)

    def test_what_the_file_says_is_read(self):
        path = Path(self.directory.name, "odoo.conf")
        path.write_text("[options]\nsmtp_password = %(x)s;#\n")
        self.assertIsNone(mail.read(path, "h", 25))
        path.write_text("[options]\n[isyone]\nmail_per_day = 7\nmail_tls = tls\nmail_verify = False\n")
        told = mail.read(path, "h", "465")
        self.assertEqual((told.place, told.tls, told.verify, told.per_day), (("h", 465), "tls", False, 7))
        self.assertIsNone(mail.read(path, "", 25))
        place = types.SimpleNamespace(smtplib=smtplib)
        mail.speak_as_told(place, None, None)
        self.assertIs(place.smtplib, smtplib)


if __name__ == "__main__":
    unittest.main()
