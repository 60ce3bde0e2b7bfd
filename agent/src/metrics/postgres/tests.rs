//! Servers that speak PostgreSQL's protocol and mean no good.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::*;

/// More than whatever lies in the sockets' buffers on the way.
const FLOOD: usize = 64 << 20;
/// "You are in", and what a server says of itself.
const WELCOME: [&[u8]; 2] = [b"R\0\0\0\x08\0\0\0\0", READY];
const READY: &[u8] = b"Z\0\0\0\x05I";

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn columns(names: &[&str]) -> Vec<u8> {
    let mut body = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
    for name in names {
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&[0; 19]);
    }
    message(b'T', &body)
}

fn row(values: &[&[u8]]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
    }
    message(b'D', &body)
}

fn table(names: &[&str], rows: &[&[&str]]) -> Vec<u8> {
    let rows = rows.iter().map(|values| {
        let values: Vec<&[u8]> = values.iter().map(|v| v.as_bytes()).collect();
        row(&values)
    });
    let parts: Vec<Vec<u8>> = std::iter::once(columns(names)).chain(rows).collect();
    [parts.concat(), message(b'C', b"SELECT\0")].concat()
}

fn setting(name: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0on\0").as_bytes())
}

fn notice(kind: u8, text: &str) -> Vec<u8> {
    message(kind, format!("SLOG\0C00000\0M{text}\0\0").as_bytes())
}

/// What PostgreSQL would answer.
fn honest(sql: &str) -> Vec<u8> {
    let tables = if sql.starts_with("SHOW") {
        vec![table(&["server_version_num"], &[&["150006"]])]
    } else if sql.contains("pg_database_size") {
        vec![table(&["datname", "bytes"], &[&["odoo_alfa", "7"]])]
    } else {
        vec![
            table(&["datid", "datname"], &[&["1", "odoo_alfa"]]),
            table(
                &["datname", "mode", "n"],
                &[&["odoo_alfa", "sharelock", "3"]],
            ),
            table(&["datname", "state", "n", "longest"], &[]),
            table(&["max_connections", "version"], &[&["200", "PostgreSQL"]]),
            table(&["buffers_clean"], &[&["6"]]),
        ]
    };
    [tables.concat(), READY.to_vec()].concat()
}

struct Server {
    access: MonitorLogin,
    connections: Arc<AtomicUsize>,
    /// Bytes that it could send.
    sent: Arc<AtomicUsize>,
}

/// Welcomes clients and answers each query as told; what is sent over and over again is repeated up to [`FLOOD`].
async fn server<A>(answer: A) -> Server
where
    A: Fn(&str) -> (Vec<u8>, Vec<u8>) + Clone + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (connections, sent) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let access = MonitorLogin {
        address: listener.local_addr().unwrap(),
        password: "secret".to_owned(),
    };
    let (counter, bytes) = (connections.clone(), sent.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, answer.clone(), bytes.clone()));
        }
    });
    Server {
        access,
        connections,
        sent,
    }
}

async fn serve<A>(mut stream: TcpStream, answer: A, sent: Arc<AtomicUsize>) -> std::io::Result<()>
where
    A: Fn(&str) -> (Vec<u8>, Vec<u8>),
{
    let length = stream.read_u32().await?;
    stream.read_exact(&mut vec![0; length as usize - 4]).await?;
    stream.write_all(&WELCOME.concat()).await?;
    while stream.read_u8().await? == b'Q' {
        let length = stream.read_u32().await?;
        let mut sql = vec![0; length as usize - 4];
        stream.read_exact(&mut sql).await?;
        let (once, endless) = answer(&String::from_utf8_lossy(&sql));
        stream.write_all(&once).await?;
        let chunk = endless.repeat((64 << 10) / endless.len().max(1));
        while !chunk.is_empty() && sent.load(Ordering::Relaxed) < FLOOD {
            stream.write_all(&chunk).await?;
            sent.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    }
    Ok(())
}

impl Server {
    async fn scrape(&self, pool: &Pool) -> Result<String, String> {
        pool.scrape(&"alfa".parse().unwrap(), &self.access).await
    }
}

#[tokio::test]
async fn a_postgres_that_is_not_there_is_an_answer() {
    let pool = Pool::default();
    let tenant = "alfa".parse().unwrap();
    // Nothing listens on this port of the loopback network's last address.
    let access = MonitorLogin {
        address: (Ipv4Addr::new(127, 255, 255, 254), 5432).into(),
        password: "secret".into(),
    };
    let error = pool.scrape(&tenant, &access).await.unwrap_err();
    assert!(!error.is_empty() && !error.contains("secret"), "{error}");
    pool.tidy(&|_| true);
    assert!(
        pool.slots.lock().unwrap().is_empty(),
        "nothing is kept of it"
    );
}

#[tokio::test]
async fn a_connection_is_kept_for_some_pages() {
    let server = server(|sql| (honest(sql), vec![])).await;
    let pool = Pool::default();
    for _ in 0..=MAX_PAGES {
        let page = server.scrape(&pool).await.unwrap();
        assert!(page.contains("pg_locks_count{datname=\"odoo_alfa\",mode=\"sharelock\"} 3\n"));
        assert!(page.contains("pg_database_size_bytes{datname=\"odoo_alfa\"} 7\n"));
        assert!(page.contains("pg_settings_max_connections 200\n"));
        assert!(page.contains("pg_stat_bgwriter_buffers_clean_total 6\n"));
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

/// Fails where a session of ours looks for a function in a schema in which a tenant lays out its own, may write, or may wait.
#[tokio::test]
async fn a_session_begins_with_its_own_settings() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let access = MonitorLogin {
        address: listener.local_addr().unwrap(),
        password: "secret".to_owned(),
    };
    let greeted = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u32().await.unwrap();
        let mut greeting = vec![0; length as usize - 4];
        stream.read_exact(&mut greeting).await.unwrap();
        greeting
    };
    let pool = Pool::default();
    let tenant = "alfa".parse().unwrap();
    let (_, greeting) = tokio::join!(pool.scrape(&tenant, &access), greeted);
    // The version, and then names and values.
    let words: Vec<String> = greeting[4..]
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let said = |name: &str| {
        let mut pairs = words.chunks(2).filter(|pair| pair[0] == name);
        pairs.next().map_or("", |pair| pair[1].as_str())
    };
    assert_eq!(said("user"), sql::MONITOR_ROLE);
    let settings: Vec<&str> = said("options").split("-c ").map(str::trim).collect();
    for setting in [
        "search_path=pg_catalog",
        "default_transaction_read_only=on",
        "statement_timeout=5000",
        "lock_timeout=1000",
    ] {
        assert!(settings.contains(&setting), "{setting}: {settings:?}");
    }
}

/// Fails when what a tenant's program answers is believed: `LIMIT 16` stands in the question alone.
#[tokio::test]
async fn more_rows_than_were_asked_for_are_refused() {
    for at in 0..5 {
        let server = server(move |sql| {
            if !sql.contains("pg_locks") {
                return (honest(sql), vec![]);
            }
            let names: Vec<String> = (0..2_000).map(|n| format!("d{n}")).collect();
            let many: Vec<[&str; 1]> = names.iter().map(|n| [n.as_str()]).collect();
            let many: Vec<&[&str]> = many.iter().map(|row| &row[..]).collect();
            let tables = (0..5).map(|n| table(&["datname"], if n == at { &many } else { &[] }));
            let tables: Vec<Vec<u8>> = tables.collect();
            ([tables.concat(), READY.to_vec()].concat(), vec![])
        })
        .await;
        let error = server.scrape(&Pool::default()).await.unwrap_err();
        assert!(error.contains("more rows"), "{error}");
    }
    let seven = server(|sql| {
        let more = table(&["datname"], &[]).repeat(2);
        ([&more, &honest(sql)[..]].concat(), vec![])
    });
    let error = seven.await.scrape(&Pool::default()).await.unwrap_err();
    assert!(error.contains("was not asked"), "{error}");
}

/// Fails when an answer is read to its end, however it goes on: rows, columns, settings, notices, or one long message.
#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let long = [&b"D\x7f\xff\xff\xff"[..], &[0; 60_000]].concat();
    let wide = columns(&["n"; 1_000]);
    let parts = [row(&[b"1"]), wide, setting("a"), notice(b'N', "x")];
    for endless in parts.into_iter().chain([long]) {
        let kind = endless[0] as char;
        let server = server(move |sql| match sql.contains("pg_locks") {
            true => (columns(&["n"]), endless.clone()),
            false => (honest(sql), vec![]),
        })
        .await;
        let page = server.scrape(&Pool::default()).await;
        assert!(page.is_err(), "{kind}");
        let sent = server.sent.load(Ordering::Relaxed);
        assert!(sent < FLOOD / 2, "{kind}: {sent}");
    }
}

/// Fails when a kept connection is listened to without end between two pages.
#[tokio::test]
async fn a_server_that_talks_while_nobody_asks_is_cut_off() {
    let server = server(|sql| match sql.contains("pg_database_size") {
        true => (honest(sql), setting("a")),
        false => (honest(sql), vec![]),
    })
    .await;
    let pool = Pool::default();
    server.scrape(&pool).await.unwrap();
    let slot = pool.slots.lock().unwrap().values().next().cloned().unwrap();
    let kept = slot.lock().await;
    let is_closed = || kept.as_ref().is_none_or(|c| c.client.is_closed());
    let ended = async {
        while !is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), ended)
        .await
        .expect("it is listened to for ever");
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent < FLOOD / 2, "{sent}");
}

/// What is written while a test runs.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Fails when the library's own driver runs the connection: it logs each notice, so that a tenant writes the host's log.
#[tokio::test]
async fn nothing_is_logged_of_what_a_server_says_on_the_side() {
    let written = Written::default();
    let writer = written.clone();
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone());
    let _logging = log.finish().set_default();
    tracing::info!("the log is watched");
    let server = server(|sql| {
        let aside = notice(b'N', "a tenant's words").repeat(100);
        ([aside, honest(sql)].concat(), vec![])
    })
    .await;
    server.scrape(&Pool::default()).await.unwrap();
    let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("the log is watched"));
    assert!(!log.contains("a tenant's words"), "{log}");
}

/// Fails when the whole of an error's text goes on the page.
#[tokio::test]
async fn what_makes_no_sense_is_a_short_reason() {
    let long = notice(b'E', &"é".repeat(100_000));
    let names = columns(&["server_version_num"]);
    let odd = [names.clone(), row(&[b"\xff\xfe"])].concat();
    let narrow = [names.clone(), row(&[])].concat();
    let wide = [names, row(&[b"1", b"2"])].concat();
    let unasked = row(&[b"1"]);
    for answer in [long, odd, narrow, wide, unasked] {
        let server = server(move |_| (answer.clone(), vec![])).await;
        let error = server.scrape(&Pool::default()).await.unwrap_err();
        assert!(error.len() <= MAX_REASON && !error.is_empty(), "{error}");
    }
}

/// Whoever asks for a password says how often it is hashed, on one of our threads; the library has a limit, which must stay.
#[tokio::test]
async fn a_server_cannot_have_a_password_hashed_without_end() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let access = MonitorLogin {
        address: listener.local_addr().unwrap(),
        password: "secret".to_owned(),
    };
    let ask = async {
        let (mut stream, _) = listener.accept().await?;
        let length = stream.read_u32().await?;
        stream.read_exact(&mut vec![0; length as usize - 4]).await?;
        let ask = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
        stream.write_all(&ask).await?;
        let mut reply = vec![0; 1 << 10];
        let read = stream.read(&mut reply).await?;
        let reply = String::from_utf8_lossy(&reply[..read]).into_owned();
        let nonce = reply.split("r=").nth(1).unwrap_or_default();
        let more = format!("r={nonce}x,s=c2FsdA==,i=4000000000");
        let body = [b"\0\0\0\x0b", more.as_bytes()].concat();
        stream.write_all(&message(b'R', &body)).await?;
        Ok::<_, std::io::Error>(stream)
    };
    let pool = Pool::default();
    let name = "alfa".parse().unwrap();
    let (page, _stream) = tokio::join!(pool.scrape(&name, &access), ask);
    let error = page.unwrap_err();
    assert!(error.contains("iteration count"), "{error}");
}
