//! A PostgreSQL cluster that lives no longer than the tests that use it.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};

use postgres::{Client, Config, NoTls};

/// The port is part of the socket's name; every cluster has a folder for its socket alone.
const PORT: u16 = 5432;

/// The database that has the extension installed, from which those of the tests are copied.
pub(crate) const TEMPLATE: &str = "with_magic_link";

/// What every cluster is told; what a test asks for comes after it and wins.
///
/// The log's prefix is the SQLSTATE and the database, so that a test can look for what went wrong in
/// its own database. Autovacuum would connect to the template and keep it from being copied. What
/// waits in vain for another connection of the same test is to fail, not to hang.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("max_connections", "200"),
    ("fsync", "off"),
    ("autovacuum", "off"),
    ("statement_timeout", "2min"),
    ("log_line_prefix", "%e %d "),
    ("log_min_error_statement", "error"),
    ("log_statement", "none"),
    ("log_checkpoints", "off"),
];

/// A running cluster with the extension installed in a template database.
pub struct Cluster {
    /// None where the cluster is to run until the process ends.
    keeper: Option<Keeper>,
    folder: PathBuf,
    databases: AtomicU32,
}

/// The process that stops the cluster and takes its folder away when we let go of it, see keeper.sh.
struct Keeper {
    process: Child,
    /// Closed by us, or by the kernel when this process is gone, however it went.
    lifeline: Option<ChildStdin>,
}

/// What is to be stopped when the process ends: statics are never dropped.
static KEEPERS: Mutex<Vec<Keeper>> = Mutex::new(Vec::new());

impl Cluster {
    /// The cluster that all tests of a test binary share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]).until_exit())
    }

    /// Starts a cluster with settings of its own, which is stopped when it is dropped.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let programs = server_programs();
        let mut process = as_server_user()
            .args(["sh", "-c", include_str!("keeper.sh"), "keeper"])
            .arg(programs)
            .arg(configuration(settings))
            // With it a panic that escaped would carry its backtrace to the client: the tests look for that.
            .env("RUST_BACKTRACE", "1")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // An interrupt from the terminal is for the tests; the keeper outlives them to clean up.
            .process_group(0)
            .spawn()
            .expect("the cluster's keeper does not start");
        let lifeline = process.stdin.take();
        let mut folder = String::new();
        let said = process.stdout.take().map(BufReader::new);
        let _ = said.expect("piped").read_line(&mut folder);
        if folder.is_empty() {
            let mut why = String::new();
            let said = process.stderr.take();
            let _ = said.expect("piped").read_to_string(&mut why);
            panic!("the cluster does not start:\n{why}");
        }
        let cluster = Self {
            keeper: Some(Keeper { process, lifeline }),
            folder: PathBuf::from(folder.trim_end()),
            databases: AtomicU32::new(0),
        };
        cluster.make_template();
        cluster
    }

    /// For a cluster in a static: it is stopped before the process has ended, not just after.
    pub fn until_exit(mut self) -> Self {
        static STOP_AT_EXIT: Once = Once::new();
        // SAFETY: the function is one of ours, unwinds nowhere, and is there as long as the process is.
        STOP_AT_EXIT.call_once(|| unsafe {
            libc::atexit(stop_all);
        });
        keepers().extend(self.keeper.take());
        self
    }

    fn make_template(&self) {
        let mut postgres = self.connect("postgres", "postgres");
        postgres
            .batch_execute(&format!("CREATE DATABASE {TEMPLATE}"))
            .expect("no template database");
        // Disconnects at once: a database with a connection cannot be copied.
        self.connect(TEMPLATE, "postgres")
            .batch_execute("CREATE EXTENSION magic_link")
            .expect(
                "magic_link is not installed into the server that PG_CONFIG names, or is broken",
            );
    }

    /// A connection to a database as a role, which needs no password.
    pub fn connect(&self, database: &str, role: &str) -> Client {
        self.config(database, role)
            .connect(NoTls)
            .unwrap_or_else(|error| panic!("no connection to {database} as {role}: {error:?}"))
    }

    /// For tests that expect a connection to fail, or that want options of their own.
    pub fn config(&self, database: &str, role: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(&self.folder)
            .port(PORT)
            .dbname(database)
            .user(role);
        config
    }

    /// What psql answers to a script, which it leaves at the first error.
    #[track_caller]
    pub fn psql(&self, database: &str, role: &str, script: &str) -> String {
        let mut psql = Command::new(format!("{}/psql", server_programs()))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--port", &PORT.to_string()])
            .args(["--dbname", database, "--username", role])
            .arg("--host")
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql does not run");
        let stdin = psql.stdin.take();
        let written = stdin.expect("piped").write_all(script.as_bytes());
        let answer = psql.wait_with_output().expect("psql was lost");
        let complaint = String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.success() && written.is_ok(), "{complaint}");
        String::from_utf8_lossy(&answer.stdout).into_owned()
    }

    /// What a shell answers to a command line, with the server's own programs in its path, which connect to this cluster as
    /// its superuser. It runs as whoever runs the server, so that what it writes goes with the cluster.
    pub fn shell(&self, command: &str) -> Output {
        let path = env::var("PATH").unwrap_or_default();
        as_server_user()
            .args(["sh", "-c", command])
            .env("PATH", format!("{}:{path}", server_programs()))
            .env("PGHOST", &self.folder)
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .output()
            .expect("no shell")
    }

    /// A place for files that end with the cluster.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Everything that the server has written to its log so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.join("log")).expect("the server has no log");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A number for a database of this cluster, and for the roles that go with it.
    pub(crate) fn next_number(&self) -> u32 {
        self.databases.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.lifeline.take();
        let _ = self.process.wait();
    }
}

fn keepers() -> MutexGuard<'static, Vec<Keeper>> {
    KEEPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn stop_all() {
    keepers().clear();
}

/// The folder of initdb and pg_ctl of the server that has the extension.
fn server_programs() -> String {
    let pg_config = env::var("PG_CONFIG").expect(
        "PG_CONFIG must name the pg_config of a server that has magic_link installed; `make test` sees to it",
    );
    let answer = Command::new(&pg_config)
        .arg("--bindir")
        .output()
        .unwrap_or_else(|error| panic!("PG_CONFIG={pg_config} does not run: {error}"));
    String::from_utf8(answer.stdout)
        .expect("the path of the server's programs is not UTF-8")
        .trim_end()
        .to_owned()
}

/// A command that runs as an ordinary user, since PostgreSQL refuses to be started by root.
fn as_server_user() -> Command {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        // The empty prefix: `env` runs what follows.
        return Command::new("env");
    }
    let prefix = env::var("MAGIC_LINK_RUN_SERVER_AS").expect(
        "as root, MAGIC_LINK_RUN_SERVER_AS must hold a command prefix such as `runuser -u postgres --`",
    );
    let mut words = prefix.split_whitespace();
    let mut command = Command::new(words.next().expect("MAGIC_LINK_RUN_SERVER_AS is empty"));
    command.args(words);
    command
}

fn configuration(settings: &[(&str, &str)]) -> String {
    SETTINGS
        .iter()
        .chain(settings)
        .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dropping does nothing but close the pipe, as the kernel does for a process that is killed.
    #[test]
    fn nothing_is_left_of_a_cluster() {
        let cluster = Cluster::start(&[]);
        let folder = cluster.folder.clone();
        let mut connection = cluster.connect("postgres", "postgres");
        assert!(folder.exists());

        drop(cluster);

        assert!(!folder.exists());
        assert!(connection.simple_query("SELECT 1").is_err());
    }
}
