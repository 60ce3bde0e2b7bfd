# What `isyctl tenant mail test` has Odoo's shell do: give one message to the server that Odoo itself would give it to, and say in
# one line what became of it. Nothing is stored: the shell rolls back. The same on Odoo 16 to 19, whose names differ.
import json


def send(env, asked):
    servers = env["ir.mail_server"]
    sender = asked["from"] or env.company.email or env.user.email or asked["to"]
    connect = getattr(servers, "_connect__", None) or servers.connect
    build = getattr(servers, "_build_email__", None) or servers.build_email
    message = build(sender, [asked["to"]], asked["subject"], asked["text"])
    smtp = connect(smtp_from=message["From"])
    if smtp is None:
        return {"state": "failed", "why": "this Odoo is in its testing mode and sends nothing"}
    said = {
        "server": "%s:%s" % (getattr(smtp, "_host", "?"), (smtp.sock.getpeername() or ("", "?"))[1]),
        "tls": hasattr(smtp.sock, "cipher"),
        "login": bool(getattr(smtp, "user", None)),
        "from": message["From"],
        "servers": servers.sudo().search_count([]),
    }
    servers.send_email(message, smtp_session=smtp)
    smtp.quit()
    return dict(said, state="ok", id=message["Message-Id"])


try:
    said = send(env, ASKED)  # noqa: F821  the shell's, and the line before this script
except Exception as e:  # whatever it is, it is the answer
    why = " ".join(str(part) for part in e.args) or str(e)
    said = {"state": "failed", "why": ("%s: %s" % (type(e).__name__, why))[:1000]}
print("\nisyone-mail " + json.dumps(said), flush=True)
