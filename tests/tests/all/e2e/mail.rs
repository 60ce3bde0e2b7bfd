//! An invoice is posted, printed and sent: caught on its host, then through Debian's OpenSMTPD, with TLS and a login, and seen there;
//! by a server that Odoo's administrator has set, by one on its host; and what is said, counted and alerted when a server refuses.
//! With real Odoo; skipped aloud where the server's image is not there.
//!
//! Not here: what the catcher makes of hostile clients (the agent's own tests), when an alert does not fire (monitoring_files).

use std::{process::Command, time::Duration};

use isyone_tests::e2e::{
    beside,
    cell::{Cell, Shape},
    enabled,
    lane::Lane,
    odoo,
    process::{Daemon, Output, run, run_with_input},
    wait_for,
    watch::Prometheus,
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const IMAGE: &str = "isyone/mail:1";
/// The server's container, on this machine's own engine and network.
const SERVER: &str = "isyone-test-mail";
const LOGIN: &str = "books";
const PASSWORD: &str = "hunter2;#%(x)s";
const STARTTLS: &str = "16587";
const TLS: &str = "16465";
/// Of the server on the tenant's own host.
const HOSTS: &str = "2525";

/// A server without TLS or login that takes everything and keeps nothing.
const SINK: &str = "
import socketserver
class Sink(socketserver.StreamRequestHandler):
    def handle(self):
        say = lambda text: self.wfile.write(text + b'\\r\\n')
        say(b'220 sink'); body = False
        for line in self.rfile:
            line = line.rstrip(b'\\r\\n')
            if body:
                if line == b'.': body = False; say(b'250 taken')
                continue
            verb = line[:4].upper(); body = verb == b'DATA'
            say(b'354 go on' if body else b'221 bye' if verb == b'QUIT' else b'250 well')
            if verb == b'QUIT': return
socketserver.ThreadingTCPServer(('0.0.0.0', 2525), Sink).serve_forever()
";

/// Whatever a tenant sends is caught, unless it has a server of its own; the one of the test is at an address that is closed otherwise (that of
/// either lane).
const SHAPE: Shape = Shape {
    config: "---[mail]\nkind=\"catcher\"\nsender_domain=\"isy.one\"\n[monitoring]\ncertificate_dir=\"prometheus\"\n\
             [network]\nmail_relays=[\"host:2525\", \"172.30.78.1:16587\", \"172.30.78.1:16465\", \"172.30.79.1:16587\", \"172.30.79.1:16465\"]\n",
    ..Shape::DEFAULT
};

/// The server, while the test runs.
struct Server;

impl Server {
    fn docker(args: &[&str]) -> Output {
        run(Command::new("docker").args(args))
    }

    /// `None`: its image is not there.
    fn start() -> Option<Self> {
        if Self::docker(&["image", "inspect", IMAGE]).code != 0 {
            return None;
        }
        Self::docker(&["rm", "-f", SERVER]);
        let [login, password, address, ports] = [
            format!("LOGIN={LOGIN}"),
            format!("PASSWORD={PASSWORD}"),
            format!("ADDRESS={}", Lane::here().gateway()),
            format!("PORTS={STARTTLS} {TLS}"),
        ];
        let environment = ["-e", &login, "-e", &password, "-e", &address, "-e", &ports];
        let begin = ["run", "-d", "--name", SERVER, "--network", "host"];
        Self::docker(&[&begin[..], &environment, &[IMAGE]].concat()).ok();
        Some(Self)
    }

    /// All that it has taken.
    fn inbox(&self) -> String {
        let words = [
            "exec",
            SERVER,
            "sh",
            "-c",
            "cat /inbox/new/* 2>/dev/null || true",
        ];
        Self::docker(&words).ok()
    }

    fn wait_for(&self, subject: &str) -> String {
        let line = format!("Subject: {subject}");
        let has = |inbox: String| inbox.contains(&line).then_some(inbox);
        wait_for(&format!("`{subject}` in the inbox"), MINUTE, || {
            has(self.inbox())
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        Self::docker(&["rm", "-f", SERVER]);
    }
}

/// What is drawn on a PDF's pages: where and how, by which it is told whether Odoo's styles had a part in it.
const DRAWN: &str = "\
import io
from odoo.tools.pdf import PdfFileReader
def drawn(pdf):
    pages = PdfFileReader(io.BytesIO(pdf), strict=False)
    return [pages.getPage(n).get_contents().get_data() for n in range(pages.getNumPages())]

";

/// Posts an invoice as the country has it (its tax, its kind of document and number), prints it, sends it as Odoo sends, and prints it
/// once more where no style is to be had; says the mail's state.
fn invoice(cell: &Cell, subject: &str) -> String {
    let script = format!(
        "{DRAWN}customer = env['res.partner'].create({{'name': 'Cliente Ltda', 'email': 'cliente@example.com', 'country_id': env.ref('base.br').id}})\n\
         journal = env['account.journal'].search([('type', '=', 'sale')], limit=1)\n\
         tax = env['account.tax'].search([('type_tax_use', '=', 'sale'), ('amount', '>', 0)], limit=1)\n\
         lines = [(0, 0, {{'name': 'Serviço', 'quantity': 2, 'price_unit': 100.0, 'tax_ids': [(6, 0, tax.ids)]}})]\n\
         move = env['account.move'].create({{'move_type': 'out_invoice', 'partner_id': customer.id, 'journal_id': journal.id, 'invoice_line_ids': lines}})\n\
         move.action_post()\n\
         env.cr.commit()\n\
         pdf, _ = env['ir.actions.report']._render_qweb_pdf('account.account_invoices', move.ids)\n\
         paper = env['ir.attachment'].create({{'name': 'Fatura.pdf', 'raw': pdf, 'mimetype': 'application/pdf'}})\n\
         mail = env['mail.mail'].create({{'subject': {subject}, 'email_to': 'cliente@example.com', 'body_html': '<p>Segue a fatura.</p>', 'attachment_ids': [(4, paper.id)]}})\n\
         env.cr.commit()\n\
         mail.send()\n\
         env.cr.commit()\n\
         print('posted', move.state, 'taxed', move.amount_tax > 0, 'pdf', pdf[:5], len(pdf) > 10000, 'mail', mail.state, mail.failure_reason)\n\
         env['ir.config_parameter'].set_param('report.url', 'http://127.0.0.1:9')\n\
         bare, _ = env['ir.actions.report']._render_qweb_pdf('account.account_invoices', move.ids)\n\
         env.cr.rollback()\n\
         print('styled', drawn(pdf) != drawn(bare), len(pdf), len(bare), move.l10n_latam_document_type_id.name, move.name)\n",
        subject = json!(subject)
    );
    let printed = odoo::shell(cell, "books", &script);
    let line = printed.lines().find(|line| line.contains("posted"));
    let line = line.unwrap_or_else(|| panic!("{printed}")).to_owned();
    println!("{line}");
    assert!(
        line.contains("posted posted taxed True pdf b'%PDF-' True"),
        "{printed}"
    );
    let styled = printed.lines().find(|line| line.contains("styled"));
    println!("{styled:?}");
    assert!(
        styled.is_some_and(|line| line.contains("styled True")),
        "{printed}"
    );
    line
}

fn set(cell: &Cell, more: &[&str], password: &str) -> Output {
    let mut command = cell.isyctl_command("admin.toml");
    let address = Lane::here().gateway();
    command.args([
        "tenant",
        "mail",
        "set",
        "books",
        "--host",
        &address,
        "--sender-domain",
        "isy.one",
    ]);
    command
        .args(["--user", LOGIN, "--password-stdin"])
        .args(more);
    run_with_input(&mut command, &format!("{password}\n"))
}

#[test]
fn an_invoice_is_printed_and_sent_through_a_server_of_debians_and_a_refusal_is_said() {
    if !enabled("an_invoice_is_printed_and_sent_through_a_server_of_debians_and_a_refusal_is_said")
    {
        return;
    }
    let _beside = beside();
    let server = Server::start();
    let cell = Cell::start(&SHAPE);
    let options = [
        "tenant",
        "create",
        "books",
        "--country",
        "BR",
        "--modules",
        "account",
        "--lang",
        "pt_BR",
    ];
    cell.isyctl(&options).ok();
    a_caught_invoice(&cell);
    a_server_on_its_host(&cell);
    let Some(server) = server else {
        println!("skipped: there is no image {IMAGE} (`cargo xtask images {IMAGE}`)");
        return;
    };
    sent_with_tls_and_login(&cell, &server);
    the_administrators_own_server_comes_first(&cell, &server);
    a_certificate_that_nobody_knows(&cell);
    a_days_limit(&cell);
    a_server_that_refuses(&cell);
    nobody_else_knows_the_password(&cell);
}

/// The list, without what is in Odoo.
fn caught(cell: &Cell) -> Vec<Value> {
    let list = cell.json(&["tenant", "mail", "list", "books"]);
    let rows = list.as_array().unwrap().iter();
    rows.filter(|row| row["state"] == "caught")
        .cloned()
        .collect()
}

fn a_caught_invoice(cell: &Cell) {
    assert!(invoice(cell, "Fatura um").contains("mail sent"));
    let rows = caught(cell);
    let row = rows.iter().find(|row| row["subject"] == "Fatura um");
    let row = row.unwrap_or_else(|| panic!("{rows:?}"));
    assert_eq!(row["to"], "cliente@example.com");
    let id = row["id"].as_str().unwrap();
    let text = cell
        .isyctl(&["tenant", "mail", "read", "books", id, "--raw"])
        .ok();
    assert!(
        text.contains("application/pdf") && text.contains("Fatura.pdf"),
        "{text}"
    );
    let shown = cell.isyctl(&["tenant", "mail", "show", "books"]).ok();
    assert!(
        shown.contains("caught on its host") && shown.contains("as all tenants"),
        "{shown}"
    );
}

fn sent_with_tls_and_login(cell: &Cell, server: &Server) {
    let before = caught(cell).len();
    for (subject, more) in [
        ("Fatura dois", &["--port", STARTTLS, "--no-verify"][..]),
        // What odoo.conf by itself could not say.
        (
            "Fatura tres",
            &["--port", TLS, "--tls", "tls", "--no-verify"],
        ),
    ] {
        set(cell, more, PASSWORD).ok();
        assert!(invoice(cell, subject).contains("mail sent"));
        let inbox = server.wait_for(subject);
        // What it says of a message that came over TLS and from whom has logged in.
        assert!(
            inbox.contains("ESMTPSA") && inbox.contains("Fatura.pdf"),
            "{inbox}"
        );
        let test = ["tenant", "mail", "test", "books", "--to", "ana@example.com"];
        let said = cell.isyctl(&test).ok();
        assert!(said.contains("with TLS and login"), "{said}");
    }
    let now = caught(cell).len();
    assert_eq!(now, before, "none of it is caught, and what was is listed");
}

fn test(cell: &Cell) -> Output {
    cell.isyctl(&["tenant", "mail", "test", "books", "--to", "ana@example.com"])
}

/// `host`: at the first address of the tenant's network, where `mail_relays` opens its port.
fn a_server_on_its_host(cell: &Cell) {
    let mut sink = cell.hosts[0].command("python3");
    sink.args(["-c", SINK]);
    let _sink = Daemon::start("sink", &mut sink, &cell.dir.path().join("sink.log"));
    let host = ["--host", "host", "--port", HOSTS, "--tls", "none"];
    let set = [&["tenant", "mail", "set", "books"][..], &host].concat();
    cell.isyctl(&set).ok();
    let said = wait_for("the server on its host", MINUTE, || {
        let said = test(cell);
        (said.code == 0).then_some(said.stdout)
    });
    println!("{said}");
    assert!(said.contains(&format!(":{HOSTS}")), "{said}");
}

/// Odoo's own order: what its administrator sets comes before odoo.conf, which has it caught.
fn the_administrators_own_server_comes_first(cell: &Cell, server: &Server) {
    cell.isyctl(&["tenant", "mail", "clear", "books"]).ok();
    let before = caught(cell).len();
    let script = format!(
        "own = env['ir.mail_server'].create({{'name': 'own', 'smtp_host': '{}', 'smtp_port': {STARTTLS}, 'smtp_encryption': 'starttls', 'smtp_user': '{LOGIN}', 'smtp_pass': {}}})\n\
         env.cr.commit()\n\
         mail = env['mail.mail'].create({{'subject': 'Fatura propria', 'email_to': 'cliente@example.com', 'body_html': 'x', 'email_from': 'books@isy.one'}})\n\
         mail.send()\nown.active = False\nenv.cr.commit()\nprint('own', mail.state, mail.failure_reason)\n",
        Lane::here().gateway(),
        json!(PASSWORD)
    );
    let printed = odoo::shell(cell, "books", &script);
    assert!(printed.contains("own sent"), "{printed}");
    server.wait_for("Fatura propria");
    assert_eq!(caught(cell).len(), before, "none of it is caught");
}

fn a_certificate_that_nobody_knows(cell: &Cell) {
    set(cell, &["--port", STARTTLS], PASSWORD).ok();
    let refused = cell.isyctl(&["tenant", "mail", "test", "books", "--to", "ana@example.com"]);
    println!("{}", refused.stderr);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("CERTIFICATE_VERIFY_FAILED"),
        "{}",
        refused.stderr
    );
}

fn a_days_limit(cell: &Cell) {
    let more = ["--port", STARTTLS, "--no-verify", "--per-day", "1"];
    set(cell, &more, PASSWORD).ok();
    let test = ["tenant", "mail", "test", "books", "--to", "ana@example.com"];
    cell.isyctl(&test).ok();
    let refused = cell.isyctl(&test);
    println!("{}", refused.stderr);
    assert!(
        refused.stderr.contains("1 of 1 messages"),
        "{}",
        refused.stderr
    );
}

/// The mail has failed, Odoo's page counts it, the shipped alert fires, and `tenant show` says so.
fn a_server_that_refuses(cell: &Cell) {
    let more = ["--port", STARTTLS, "--no-verify"];
    set(cell, &more, "another").ok();
    let prometheus = Prometheus::start(cell, "2s");
    let failed = "odoo_mail_queue{job=\"odoo\", tenant=\"books\", state=\"exception\"}";
    prometheus.wait(&format!("{failed} == 0"), 3 * MINUTE);
    let line = invoice(cell, "Fatura quatro");
    assert!(line.contains("mail exception"), "{line}");
    let list = cell.json(&["tenant", "mail", "list", "books"]);
    let row = list
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["subject"] == "Fatura quatro");
    assert_eq!(
        row.map(|row| &row["state"]),
        Some(&json!("exception")),
        "{list}"
    );
    println!("{}", row.unwrap()["why"]);
    let said = wait_for("`tenant show` to say so", 3 * MINUTE, || {
        let shown = cell.isyctl(&["tenant", "show", "books"]).ok();
        shown
            .lines()
            .find(|line| line.starts_with("Mail failed"))
            .map(ToOwned::to_owned)
    });
    println!("{said}");
    prometheus.wait(&format!("{failed} == 1"), 3 * MINUTE);
    let firing = "ALERTS{alertname=\"OdooMailFailing\", tenant=\"books\", alertstate=\"firing\"}";
    prometheus.wait(firing, MINUTE);
}

/// Not Docker, not a log, not a process list.
fn nobody_else_knows_the_password(cell: &Cell) {
    set(cell, &["--port", STARTTLS, "--no-verify"], PASSWORD).ok();
    let docker = &cell.hosts[0].docker;
    let inspected = docker.run(&["inspect", "odoo_books"]).ok();
    assert!(!inspected.contains(PASSWORD), "docker inspect");
    assert!(!cell.logs().contains(PASSWORD), "a log");
    let processes = docker.run(&["top", "odoo_books", "-eo", "pid,args"]).ok();
    assert!(!processes.contains(PASSWORD), "{processes}");
    let shown = cell
        .isyctl(&["tenant", "mail", "show", "books", "-o", "json"])
        .ok();
    assert!(
        shown.contains("has_password") && !shown.contains(PASSWORD),
        "{shown}"
    );
}
