//! A headless Chromium, driven over WebDriver: what people see, and how their browser treats certificates, redirects
//! and scripts.
//!
//! Every name resolves to this machine or not at all, so a page that loads something from elsewhere shows as broken.
//! Not here: what is checked (the tests).

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, Locator, error::CmdError};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{
    process::{Daemon, run},
    root, wait_for,
};

/// More than a loaded machine needs to start Chromium.
const SOON: Duration = Duration::from_secs(30);
/// Loading Odoo's first page includes building its assets.
const LOAD_MS: u64 = 90_000;
/// Pictures go into the documentation: this size keeps them legible there, and small.
const WINDOW: &str = "--window-size=1100,700";

#[derive(Debug)]
pub struct Browser {
    client: Option<Client>,
    runtime: Runtime,
    _driver: Daemon,
}

/// Whether there is a browser; prints a notice if not. With `ISYONE_BROWSER` set there must be one.
pub fn installed(test: &str) -> bool {
    let there =
        run(Command::new("sh").args(["-c", "command -v chromium chromedriver certutil"])).code == 0;
    let must = std::env::var_os("ISYONE_BROWSER").is_some_and(|value| !value.is_empty());
    assert!(
        there || !must,
        "chromium, chromedriver or certutil is missing; `cargo xtask test` installs them"
    );
    if !there {
        println!("{test}: skipped, there is no Chromium with its driver (use `cargo xtask test`)");
    }
    there
}

impl Browser {
    /// Starts a browser with its profile in `home` that trusts the CA `ca` and resolves `domain` and everything below
    /// it to this machine.
    pub fn start(home: &Path, ca: &Path, domain: &str) -> Self {
        trust(home, ca);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let mut command = Command::new("chromedriver");
        command
            .arg(format!("--port={}", address.port()))
            .env("HOME", home);
        let driver = Daemon::start("chromedriver", &mut command, &home.join("chromedriver.log"));
        wait_for("chromedriver", SOON, || TcpStream::connect(address).ok());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let client = runtime.block_on(connect(address, home, domain));
        Self {
            client: Some(client),
            runtime,
            _driver: driver,
        }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("open until it is dropped")
    }

    /// Opens a URL; returns once it is loaded, whatever the result.
    pub fn open(&self, url: &str) {
        self.runtime
            .block_on(self.client().goto(url))
            .unwrap_or_else(|e| panic!("{url}: {e}"));
    }

    pub fn fill(&self, selector: &str, text: &str) {
        self.element(selector, async |element| element.send_keys(text).await);
    }

    pub fn click(&self, selector: &str) {
        self.element(selector, async |element| element.click().await);
    }

    fn element(
        &self,
        selector: &str,
        act: impl AsyncFnOnce(fantoccini::elements::Element) -> Result<(), CmdError>,
    ) {
        let done = self.runtime.block_on(async {
            let element = self
                .client()
                .wait()
                .at_most(SOON)
                .for_element(Locator::Css(selector))
                .await?;
            act(element).await
        });
        done.unwrap_or_else(|e| panic!("{selector}: {e}\n{}", self.seen()));
    }

    /// The value of an expression in the page; `None` while there is no page.
    pub fn value(&self, expression: &str) -> Option<Value> {
        let script = format!("return ({expression});");
        self.runtime
            .block_on(self.client().execute(&script, Vec::new()))
            .ok()
    }

    /// Waits until an expression in the page is true, without touching the page.
    pub fn wait(&self, what: &str, limit: Duration, expression: &str) {
        let begin = std::time::Instant::now();
        while self.value(expression) != Some(Value::Bool(true)) {
            assert!(
                begin.elapsed() < limit,
                "gave up after {limit:?} waiting for {what}:\n{}",
                self.seen()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The beginning of the page's text with its address, for error messages.
    pub fn seen(&self) -> String {
        let page = "location.href + '\\n' + document.title + '\\n' + document.body.innerText.slice(0, 2000)";
        self.value(page).map_or_else(
            || "no page".to_owned(),
            |page| page.as_str().unwrap_or_default().to_owned(),
        )
    }

    /// Takes a picture for the documentation, if `ISYONE_PICTURES=1`.
    pub fn picture(&self, name: &str) {
        if std::env::var_os("ISYONE_PICTURES").is_none_or(|value| value != "1") {
            return;
        }
        let png = self
            .runtime
            .block_on(self.client().screenshot())
            .expect("a picture");
        let folder = root().join("docs/pictures");
        std::fs::create_dir_all(&folder).expect("docs/pictures");
        std::fs::write(folder.join(format!("{name}.png")), &png).expect("a picture");
        println!("docs/pictures/{name}.png: {} KiB", png.len() >> 10);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // Chromium ends with the driver in any case: they talk over a pipe.
            let _ = self.runtime.block_on(client.close());
        }
    }
}

async fn connect(driver: SocketAddr, home: &Path, domain: &str) -> Client {
    let hosts = format!(
        "--host-resolver-rules=MAP {domain} 127.0.0.1, MAP *.{domain} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    );
    let profile = format!("--user-data-dir={}", home.join("profile").display());
    // Tests run as root, where Chromium has no sandbox; it only opens our own pages. Over a pipe it ends with its
    // driver.
    let arguments = json!([
        "--headless=new",
        "--no-sandbox",
        "--remote-debugging-pipe",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--lang=en-US",
        "--hide-scrollbars",
        WINDOW,
        hosts,
        profile,
    ]);
    let capabilities = json!({
        "goog:chromeOptions": {"args": arguments, "prefs": {"intl.accept_languages": "en-US,en"}},
        "timeouts": {"pageLoad": LOAD_MS},
    });
    let Value::Object(capabilities) = capabilities else {
        unreachable!("it is an object")
    };
    let mut builder = ClientBuilder::new(HttpConnector::new());
    let connected = builder
        .capabilities(capabilities)
        .connect(&format!("http://{driver}"))
        .await;
    connected.unwrap_or_else(|e| panic!("Chromium does not start: {e}"))
}

/// Adds the CA to the user's NSS database, which Chromium trusts.
fn trust(home: &Path, ca: &Path) {
    let store = home.join(".pki/nssdb");
    std::fs::create_dir_all(&store).expect("a folder");
    let database = format!("sql:{}", store.display());
    run(Command::new("certutil").args(["-N", "--empty-password", "-d", &database])).ok();
    let mut add = Command::new("certutil");
    run(add
        .args(["-A", "-d", &database, "-n", "test", "-t", "C,,", "-i"])
        .arg(ca))
    .ok();
}
