//! The tenant that is backed up, and its data: generated contacts of Odoo's own table, and attachments whose files are random bytes, as
//! pictures and PDFs are to whoever compresses them.
//!
//! Written past Odoo, for it would take an hour. Not here: backing it up.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use isyone_tests::e2e::{
    cell::Cell,
    docker::Docker,
    process::{run, run_with_input},
    wait_for,
};

use super::cost::size_of;

pub(super) const TENANT: &str = "alfa";
pub(super) const POSTGRES: &str = "postgres_alfa";
pub(super) const DATABASE: &str = "odoo_alfa";

/// How long the agent may take to tell PostgreSQL something.
const PATIENCE: Duration = Duration::from_secs(60);
/// Words for contacts' notes: text, which compresses as text does.
const WORDS: &str = "SET synchronous_commit = off;
    CREATE TABLE IF NOT EXISTS bench_words AS SELECT g AS id,
        (SELECT string_agg(substr(md5(random()::text || g || s), 1, 3 + (random() * 6)::int), ' ') FROM generate_series(1, 20) s) AS t
        FROM generate_series(1, 1000) g;
    CREATE UNIQUE INDEX IF NOT EXISTS bench_words_id ON bench_words (id); ANALYZE bench_words;";
/// The columns of a contact that are copied from one that is there.
const COLUMNS: &str = "SELECT string_agg(quote_ident(column_name), ',') FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = 'res_partner' AND is_generated = 'NEVER'
    AND column_name NOT IN ('id', 'name', 'complete_name', 'email', 'comment', 'ref', 'commercial_partner_id');";
/// One random word's number; `+ g * 0` has each row draw its own.
const DRAW: &str = "1 + (random() * 999)::int + g * 0";

/// How much is added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grow {
    /// Contacts of about 1.3 kB each.
    pub(super) rows: usize,
    pub(super) files: usize,
    pub(super) file_bytes: usize,
    /// Copies of the table of contacts.
    pub(super) copies: usize,
}

/// Bytes of a tenant's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) database: u64,
    pub(super) files: u64,
}

impl Size {
    pub(super) fn all(self) -> u64 {
        self.database + self.files
    }

    pub(super) fn words(self) -> String {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        format!(
            "database {:.0} MB, files {:.1} MB",
            mb(self.database),
            mb(self.files)
        )
    }
}

pub(super) struct Data {
    pub(super) docker: Docker,
    pub(super) filestore: PathBuf,
}

impl Data {
    pub(super) fn of(cell: &Cell) -> Result<Self> {
        let docker = cell.hosts[0].docker.clone();
        let home = docker.homes().join(TENANT);
        let filestore = home.join("odoo/filestore").join(DATABASE);
        ensure!(filestore.is_dir(), "{TENANT} has no filestore");
        Ok(Self { docker, filestore })
    }

    /// A program in PostgreSQL's container.
    pub(super) fn in_postgres(&self, words: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker
            .env("DOCKER_HOST", self.docker.host())
            .args(["exec", "-i", POSTGRES])
            .args(words);
        docker
    }

    fn sql(&self, statements: &str) -> Result<String> {
        self.sql_in(DATABASE, statements)
    }

    fn sql_in(&self, database: &str, statements: &str) -> Result<String> {
        let words = [
            "psql",
            "-XqtA",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            database,
        ];
        let said = run_with_input(&mut self.in_postgres(&words), statements);
        ensure!(said.code == 0, "psql: {}", said.stderr);
        Ok(said.stdout.trim().to_owned())
    }

    pub(super) fn size(&self) -> Result<Size> {
        let database = self.sql("SELECT pg_database_size(current_database());")?;
        Ok(Size {
            database: database.parse()?,
            files: size_of(&self.filestore)?,
        })
    }

    pub(super) fn grow(&self, by: Grow) -> Result<()> {
        self.add_rows(by.rows)?;
        self.add_files(by.files, by.file_bytes)?;
        for copy in 0..by.copies {
            self.sql(&format!(
                "CREATE TABLE bench_copy_{copy} AS SELECT * FROM res_partner;"
            ))?;
        }
        self.sql("VACUUM ANALYZE; CHECKPOINT;").map(drop)
    }

    /// Waits until the agent has told PostgreSQL that backups are off. What is written before would fill the tenant's spool.
    pub(super) fn await_no_archive(&self) {
        wait_for("PostgreSQL to archive nothing", PATIENCE, || {
            let command = self.sql("SHOW archive_command;").ok()?;
            (command == "true").then_some(())
        });
    }

    /// A day's work, small beside the whole: one row in a thousand, all over the table, new rows, a new file in a hundred.
    pub(super) fn change(&self, day: usize, of: Grow) -> Result<()> {
        let nth = day % 1_000;
        self.sql(&format!(
            "UPDATE res_partner SET comment = comment || ' {day}' WHERE id % 1000 = {nth};"
        ))?;
        self.add_rows((of.rows / 1_000).max(1))?;
        self.add_files((of.files / 100).max(1), of.file_bytes)
    }

    fn add_rows(&self, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let columns = self.sql(COLUMNS)?;
        let words = [DRAW; 6].join(", ");
        let text = format!(
            "{WORDS}
             INSERT INTO res_partner (name, complete_name, email, ref, comment, {columns})
             SELECT 'Client ' || g, 'Client ' || g, 'c' || g || '@example.com', md5(g::text),
                '<p>' || (SELECT string_agg(t, ' ') FROM bench_words WHERE id = ANY (ARRAY[{words}])) || '</p>', {columns}
             FROM generate_series(1, {count}) g, (SELECT * FROM res_partner WHERE id = 3) p;"
        );
        self.sql(&text).map(drop)
    }

    fn add_files(&self, count: usize, bytes: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let owner = fs::metadata(&self.filestore)?;
        let own = |path: &Path| chown(path, Some(owner.uid()), Some(owner.gid()));
        // Odoo names a file by its content's hash, which is only known when it is written.
        let new = self.filestore.with_file_name("bench-new");
        fs::create_dir_all(&new)?;
        let mut random = File::open("/dev/urandom")?;
        let mut content = vec![0; bytes];
        for number in 0..count {
            random.read_exact(&mut content)?;
            fs::write(new.join(number.to_string()), &content)?;
        }
        let names = (0..count).map(|number| new.join(number.to_string()));
        let hashes = run(Command::new("sha1sum").args(names)).ok();
        let mut rows = Vec::with_capacity(count);
        for line in hashes.lines() {
            let (hash, path) = line.split_once("  ").context("sha1sum's line")?;
            let folder = self.filestore.join(&hash[..2]);
            if !folder.exists() {
                fs::create_dir(&folder)?;
                own(&folder)?;
            }
            let place = folder.join(hash);
            fs::rename(path, &place)?;
            own(&place)?;
            let name = format!("{}/{hash}", &hash[..2]);
            rows.push(format!("('file', 'binary', '{name}', '{hash}', {bytes}, 'application/octet-stream', 'res.partner', 3, 2, 2, now(), now())"));
        }
        fs::remove_dir(&new)?;
        let rows = rows.join(",\n");
        self.sql(&format!(
            "INSERT INTO ir_attachment (name, type, store_fname, checksum, file_size, mimetype, res_model, res_id, \
             create_uid, write_uid, create_date, write_date) VALUES {rows};"
        ))
        .map(drop)
    }
}
