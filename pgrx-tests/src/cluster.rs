//! A PostgreSQL cluster that lives no longer than the tests that use it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use postgres::{Client, Config, NoTls};

use crate::keeper::{Keeper, as_server_user, server_programs};
use crate::polling::until;
use crate::small_disk;

/// The port is part of the socket's name; every cluster has a folder for its socket alone.
pub(crate) const PORT: u16 = 5432;

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
    keeper: Option<Mutex<Keeper>>,
    folder: PathBuf,
    databases: AtomicU32,
}

impl Cluster {
    /// The cluster that all tests of a test binary share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]).until_exit())
    }

    /// Starts a cluster with settings of its own, which is stopped when it is dropped.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let cluster = Self::keep("cluster", &[configuration(settings).as_ref()]);
        cluster.make_template();
        cluster
    }

    /// Starts one, made with these options of initdb, that has a small disk: a file system of so many megabytes that goes with
    /// it.
    pub fn with_small_disk(megabytes: u32, options: &[&str], settings: &[(&str, &str)]) -> Self {
        let settings = configuration(settings);
        let arguments = iter::once(settings.as_str()).chain(options.iter().copied());
        let arguments: Vec<_> = arguments.map(OsStr::new).collect();
        let mounting = small_disk::mounting(megabytes);
        let cluster = Self::kept_by(Keeper::start_by(mounting, "cluster", &arguments));
        cluster.make_template();
        cluster
    }

    /// A hot standby of this cluster: it can be read, and follows what is written here.
    pub fn standby(&self) -> Self {
        Self::keep("standby", &[self.folder.as_ref()])
    }

    fn keep(kind: &str, arguments: &[&OsStr]) -> Self {
        Self::kept_by(Keeper::start(kind, arguments))
    }

    fn kept_by((keeper, folder): (Keeper, PathBuf)) -> Self {
        Self {
            keeper: Some(Mutex::new(keeper)),
            folder,
            databases: AtomicU32::new(0),
        }
    }

    /// For a cluster in a static.
    pub fn until_exit(mut self) -> Self {
        if let Some(keeper) = self.keeper.take() {
            keeper
                .into_inner()
                .expect("nobody panics there")
                .until_exit();
        }
        self
    }

    /// Where its socket is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
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
        connect(&self.folder, database, role)
    }

    /// For tests that expect a connection to fail, or that want options of their own.
    pub fn config(&self, database: &str, role: &str) -> Config {
        config(&self.folder, database, role)
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

    /// Runs a command line where the server runs, which may see other disks than we do; the server's programs are in its path.
    #[track_caller]
    pub fn run_inside(&self, command: &str) {
        assert!(self.succeeds_inside(command), "{command}: {}", self.said());
    }

    /// The same, and answers whether it succeeded.
    pub fn succeeds_inside(&self, command: &str) -> bool {
        let keeper = self
            .keeper
            .as_ref()
            .expect("not one that runs until the end");
        keeper.lock().expect("nobody panics there").run(command)
    }

    /// What the latest command inside printed.
    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("step")).unwrap_or_default()
    }

    /// Kills the server the hard way, all its processes at once, and waits until they are gone.
    pub fn kill(&self) {
        // A stopped postmaster neither starts another process nor hears of those that die.
        self.run_inside(
            "postmaster=$(head -n 1 data/postmaster.pid); kill -STOP $postmaster; \
             processes=\"$(ps -o pid= --ppid $postmaster) $postmaster\"; kill -KILL $processes && echo $processes",
        );
        for process in self.said().split_whitespace() {
            until("a killed process is gone", || !runs(process));
        }
        // Who starts a server takes a process that nobody has reaped yet for one that runs.
        self.run_inside("rm data/postmaster.pid .s.PGSQL.*.lock");
    }

    /// Kills one server process the hard way, if it is still there; the server ends all sessions then, and recovers.
    pub fn kill_process(&self, process_id: i32) {
        self.run_inside(&format!("kill -KILL {process_id} || :"));
    }

    /// Starts the server that was killed, which recovers from its write-ahead log first.
    pub fn start_again(&self) {
        self.run_inside("pg_ctl start --wait --pgdata=data --log=log");
    }

    /// Makes a standby a server of its own, and waits until it can be written.
    pub fn promote(&self) {
        self.run_inside("pg_ctl promote --wait --pgdata=data");
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

/// A process that ended stays in the list until its parent has looked at it, which init may be slow to do.
fn runs(process_id: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap_or_default();
    let state = status.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// A connection to whatever listens in a folder.
pub(crate) fn connect(folder: &Path, database: &str, role: &str) -> Client {
    config(folder, database, role)
        .connect(NoTls)
        .unwrap_or_else(|error| panic!("no connection to {database} as {role}: {error:?}"))
}

fn config(folder: &Path, database: &str, role: &str) -> Config {
    let mut config = Config::new();
    config
        .host_path(folder)
        .port(PORT)
        .dbname(database)
        .user(role);
    config
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
    fn assert_nothing_is_left_of(cluster: Cluster) {
        let folder = cluster.folder.clone();
        let mut connection = cluster.connect("postgres", "postgres");
        assert!(folder.exists());

        drop(cluster);

        assert!(!folder.exists());
        assert!(connection.simple_query("SELECT 1").is_err());
    }

    #[test]
    fn nothing_is_left_of_a_cluster() {
        assert_nothing_is_left_of(Cluster::start(&[]));
    }

    #[test]
    fn a_killed_cluster_starts_again_and_has_what_was_committed() {
        let cluster = Cluster::start(&[]);
        let mut connection = cluster.connect("postgres", "postgres");
        connection
            .batch_execute("CREATE TABLE kept ()")
            .expect("no table");

        cluster.kill();

        assert!(connection.simple_query("SELECT 1").is_err());
        cluster.start_again();
        let mut connection = cluster.connect("postgres", "postgres");
        connection
            .batch_execute("DROP TABLE kept")
            .expect("it was lost");
        assert_nothing_is_left_of(cluster);
    }

    #[test]
    fn nothing_is_left_of_a_standby() {
        assert_nothing_is_left_of(Cluster::shared().standby());
    }
}
