//! What runs beside the tests, and no longer than they do: see server.sh.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// The process that stops a server and takes its folder away when we let go of it.
pub(crate) struct ServerProcess {
    process: Child,
    /// Closed by us, or by the kernel when this process is gone, however it went.
    stdin: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What is to be stopped when the process ends: statics are never dropped.
static RUNNING: Mutex<Vec<ServerProcess>> = Mutex::new(Vec::new());

impl ServerProcess {
    /// Starts a server of one of the kinds that server.sh knows, and answers the folder in which it
    /// listens: a folder of its own, since its port is part of its socket's name.
    pub(crate) fn start(kind: &str, arguments: &[&OsStr]) -> (Self, PathBuf) {
        Self::start_by(as_server_user(), kind, arguments)
    }

    /// The same, by a command that runs another.
    pub(crate) fn start_by(
        mut command: Command,
        kind: &str,
        arguments: &[&OsStr],
    ) -> (Self, PathBuf) {
        let mut process = command
            .args(["sh", "-c", include_str!("server.sh"), "server.sh"])
            .arg(server_programs())
            .arg(kind)
            .args(arguments)
            // With it a panic that escaped would carry its backtrace to the client: the tests look for that.
            .env("RUST_BACKTRACE", "1")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // An interrupt from the terminal is for the tests; this process outlives them to clean up.
            .process_group(0)
            .spawn()
            .expect("the server's process does not start");
        let stdin = process.stdin.take();
        let mut folder = String::new();
        let mut answers = BufReader::new(process.stdout.take().expect("piped"));
        let _ = answers.read_line(&mut folder);
        if folder.is_empty() {
            let mut why = String::new();
            let said = process.stderr.take();
            let _ = said.expect("piped").read_to_string(&mut why);
            panic!("the {kind} does not start:\n{why}");
        }
        let folder = PathBuf::from(folder.trim_end());
        let server = Self {
            process,
            stdin,
            answers,
        };
        (server, folder)
    }

    /// Runs a command line where the server runs, and answers whether it succeeded.
    pub(crate) fn run(&mut self, command: &str) -> bool {
        let mut stdin = self.stdin.as_ref().expect("open until we are dropped");
        writeln!(stdin, "{command}").expect("the server's process is gone");
        let mut status = String::new();
        self.answers.read_line(&mut status).expect("no answer");
        status.trim_end() == "0"
    }

    /// For a server in a static: it is stopped before the process has ended, not just after.
    pub(crate) fn until_exit(self) {
        static STOP_AT_EXIT: Once = Once::new();
        // SAFETY: the function is one of ours, unwinds nowhere, and is there as long as the process is.
        STOP_AT_EXIT.call_once(|| unsafe {
            libc::atexit(stop_all);
        });
        running().push(self);
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.stdin.take();
        let _ = self.process.wait();
    }
}

fn running() -> MutexGuard<'static, Vec<ServerProcess>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn stop_all() {
    running().clear();
}

/// The folder of initdb and pg_ctl of the server that has the extension.
pub(crate) fn server_programs() -> String {
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

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A command that runs as an ordinary user, since PostgreSQL refuses to be started by root.
pub(crate) fn as_server_user() -> Command {
    if !is_root() {
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
