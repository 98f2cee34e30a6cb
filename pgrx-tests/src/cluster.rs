//! A temporary PostgreSQL cluster, which is stopped and deleted when the tests that use it end.

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

use crate::polling::wait_until;
use crate::server_process::{ServerProcess, as_server_user, server_programs};
use crate::small_disk;

/// The port is part of the socket's name. Each cluster has its socket in a folder of its own, so all can have the same port.
pub(crate) const PORT: u16 = 5432;

/// The template database: it has the extension installed, and the databases of the tests are copies of it.
pub(crate) const TEMPLATE: &str = "with_magic_link";

/// The settings of every cluster. Those that a test asks for come after them, so they override these.
///
/// The log's prefix is the SQLSTATE and the database, so that a test can search the log for the errors of its own
/// database. Autovacuum would connect to the template database, which could not be copied then. With
/// `statement_timeout` a statement that waits for a connection of the same test fails; it would hang otherwise.
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
    /// None where the cluster runs until the test process ends.
    process: Option<Mutex<ServerProcess>>,
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

    /// Starts a cluster, made with these options of initdb, that has a small disk: a file system of so many megabytes, which
    /// is unmounted when the cluster ends.
    pub fn with_small_disk(megabytes: u32, options: &[&str], settings: &[(&str, &str)]) -> Self {
        let settings = configuration(settings);
        let arguments = iter::once(settings.as_str()).chain(options.iter().copied());
        let arguments: Vec<_> = arguments.map(OsStr::new).collect();
        let mounting = small_disk::mounting(megabytes);
        let cluster = Self::of_process(ServerProcess::start_by(mounting, "cluster", &arguments));
        cluster.make_template();
        cluster
    }

    /// A hot standby of this cluster.
    pub fn standby(&self) -> Self {
        Self::keep("standby", &[self.folder.as_ref()])
    }

    /// Waits until the standby has replayed what this cluster has written by now.
    #[track_caller]
    pub fn wait_for_catchup(&self, standby: &Self) {
        let written: String = self
            .connect("postgres", "postgres")
            .query_one("SELECT pg_current_wal_lsn()::text", &[])
            .expect("the primary does not answer")
            .get(0);
        let mut observer = standby.connect("postgres", "postgres");
        wait_until(
            "the standby has replayed what the primary has written",
            || {
                observer
                    .query_one(
                        "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn",
                        &[&written],
                    )
                    .expect("the standby does not answer")
                    .get(0)
            },
        );
    }

    fn keep(kind: &str, arguments: &[&OsStr]) -> Self {
        Self::of_process(ServerProcess::start(kind, arguments))
    }

    fn of_process((process, folder): (ServerProcess, PathBuf)) -> Self {
        Self {
            process: Some(Mutex::new(process)),
            folder,
            databases: AtomicU32::new(0),
        }
    }

    /// For a cluster in a static, which is never dropped: it is stopped when the process exits.
    pub fn until_exit(mut self) -> Self {
        if let Some(process) = self.process.take() {
            process
                .into_inner()
                .expect("no thread panics while it holds the lock")
                .until_exit();
        }
        self
    }

    /// The folder of its socket.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn make_template(&self) {
        let mut postgres = self.connect("postgres", "postgres");
        postgres
            .batch_execute(&format!("CREATE DATABASE {TEMPLATE}"))
            .expect("no template database");
        // This connection is closed at once: a database with a connection cannot be copied.
        self.connect(TEMPLATE, "postgres")
            .batch_execute("CREATE EXTENSION magic_link")
            .expect(
                "magic_link is not installed into the server that PG_CONFIG names, or is broken",
            );
    }

    /// A connection to a database as a role. No role needs a password.
    pub fn connect(&self, database: &str, role: &str) -> Client {
        connect(&self.folder, database, role)
    }

    /// For tests that expect a connection to fail, or that need connection options of their own.
    pub fn config(&self, database: &str, role: &str) -> Config {
        config(&self.folder, database, role)
    }

    /// Runs a script in psql with ON_ERROR_STOP, and returns what psql prints.
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

    /// Runs a command line in a shell. The server's own programs are in its PATH, and connect to this cluster as its superuser.
    /// The shell runs as the operating system's user of the server, so that files that it writes are deleted with the cluster.
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

    /// Runs a command line in the mount namespace of the server. The server's programs are in its PATH.
    #[track_caller]
    pub fn run_inside(&self, command: &str) {
        assert!(self.succeeds_inside(command), "{command}: {}", self.said());
    }

    /// The same, and returns whether it succeeded.
    pub fn succeeds_inside(&self, command: &str) -> bool {
        let process = self
            .process
            .as_ref()
            .expect("a cluster that runs until exit takes no commands");
        process
            .lock()
            .expect("no thread panics while it holds the lock")
            .run(command)
    }

    /// The output of the latest command that ran inside.
    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("step")).unwrap_or_default()
    }

    /// Kills all processes of the server at once (SIGKILL), and waits until they are gone.
    pub fn kill(&self) {
        // A postmaster that SIGSTOP stopped neither starts a process nor reacts to one that dies.
        self.run_inside(
            "postmaster=$(head -n 1 data/postmaster.pid); kill -STOP $postmaster; \
             processes=\"$(ps -o pid= --ppid $postmaster) $postmaster\"; kill -KILL $processes && echo $processes",
        );
        for process in self.said().split_whitespace() {
            wait_until("a killed process is gone", || !runs(process));
        }
        // pg_ctl would take a zombie for a server that runs.
        self.run_inside("rm data/postmaster.pid .s.PGSQL.*.lock");
    }

    /// Kills one server process (SIGKILL) if it still exists. The server ends all sessions then, and recovers.
    pub fn kill_process(&self, process_id: i32) {
        self.run_inside(&format!("kill -KILL {process_id} || :"));
    }

    /// Starts the server that was killed. It recovers from its write-ahead log first.
    pub fn start_again(&self) {
        self.run_inside("pg_ctl start --wait --pgdata=data --log=log");
    }

    /// Promotes a standby, and waits until it accepts writes.
    pub fn promote(&self) {
        self.run_inside("pg_ctl promote --wait --pgdata=data");
    }

    /// The path of a file that is deleted with the cluster.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The server log so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.join("log")).expect("the server has no log");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A number for a database of this cluster, and for the roles that go with it.
    pub(crate) fn next_number(&self) -> u32 {
        self.databases.fetch_add(1, Ordering::Relaxed)
    }
}

/// A zombie does not count as running: init may be slow to reap it.
fn runs(process_id: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap_or_default();
    let state = status.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// A connection to the server (PostgreSQL or PgBouncer) whose socket is in this folder.
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

    /// Dropping only closes a pipe, which the kernel does too when the test process is killed.
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
