//! The server that is measured: a throwaway cluster with the extension and the contestants in it, and
//! the same data under a single-user server that callgrind watches.

use std::fs;

use magic_link_harness::postgres::Client;
use magic_link_harness::{Cluster, Database};

use crate::contestants::{Call, Contestant, SETUP, Statement};
use crate::workload::fill;

/// Starts a cluster; what happens in it by itself would be counted with what we do.
pub fn start(settings: &[(&str, &str)]) -> Cluster {
    let quiet = [
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("max_wal_size", "32GB"),
        ("checkpoint_timeout", "1d"),
        ("bgwriter_lru_maxpages", "0"),
        ("statement_timeout", "0"),
        ("jit", "off"),
        ("max_connections", "300"),
    ];
    Cluster::start(&[&quiet, settings].concat())
}

/// A database with the directory filled and the contestants installed.
pub fn database(cluster: &Cluster) -> Database<'_> {
    let database = Database::of(cluster);
    let mut client = database.superuser();
    run(&mut client, SETUP);
    fill(&mut client);
    database
}

/// Runs statements that are there to prepare something.
pub fn run(client: &mut Client, statements: &str) {
    if let Err(error) = client.batch_execute(statements) {
        panic!("{statements}: {error}");
    }
}

/// A cluster that is stopped, to be looked at by single-user servers.
pub struct Stopped<'c> {
    cluster: &'c Cluster,
    database: String,
}

impl<'c> Stopped<'c> {
    pub fn new(cluster: &'c Cluster, database: &Database) -> Self {
        shell(
            cluster,
            &format!("pg_ctl stop --mode=fast -D {}", data(cluster)),
        );
        Self {
            cluster,
            database: database.name().to_owned(),
        }
    }

    /// Instructions of a call, with warm plans and caches: a run of 150 calls less one of 50, over 100.
    /// Both see the same data: a copy, or, where that would be too large, each what the last one left.
    pub fn instructions(&self, contestant: Contestant, calls: &[Call], on_copies: bool) -> f64 {
        assert!(
            calls.len() >= if on_copies { 150 } else { 200 },
            "too few cases"
        );
        let (few, many) = match on_copies {
            true => (&calls[..50], &calls[..150]),
            false => (&calls[..50], &calls[50..200]),
        };
        let count = |calls| self.count(contestant, calls, on_copies);
        (count(many) as f64 - count(few) as f64) / 100.0
    }

    fn count(&self, contestant: Contestant, calls: &[Call], on_copy: bool) -> u64 {
        let valgrind = std::env::var("MAGIC_LINK_VALGRIND").unwrap_or("valgrind".to_owned());
        let profile = std::env::var("MAGIC_LINK_PROFILE").unwrap_or("/dev/null".to_owned());
        let watcher = format!("{valgrind} --tool=callgrind --callgrind-out-file={profile}");
        let said = self.run(&watcher, contestant, calls, on_copy);
        let collected = said.lines().find_map(|line| line.split_once("Collected :"));
        let count = collected.and_then(|(_, count)| count.trim().parse().ok());
        count.unwrap_or_else(|| panic!("callgrind counted nothing:\n{said}"))
    }

    /// Runs calls in a single-user server that `watcher` starts, and answers what that said.
    pub fn run(
        &self,
        watcher: &str,
        contestant: Contestant,
        calls: &[Call],
        on_copy: bool,
    ) -> String {
        let original = data(self.cluster);
        let [copy, statements, output] =
            ["copy", "statements", "output"].map(|name| path(self.cluster, name));
        fs::write(&statements, script(contestant, calls))
            .expect("the file of statements cannot be written");
        let data = match on_copy {
            true => {
                shell(
                    self.cluster,
                    &format!("rm -rf {copy} && cp -a {original} {copy}"),
                );
                &copy
            }
            false => &original,
        };
        let said = shell(
            self.cluster,
            &format!(
                "{watcher} postgres --single -D {data} {} <{statements} >{output}",
                self.database
            ),
        );
        // What fails in a single-user server does not end it, nor change how it ends.
        let answers = fs::read_to_string(&output).unwrap_or_default();
        let failed = |line: &&str| line.contains("ERROR:") || line.contains("FATAL:");
        if let Some(line) = said.lines().chain(answers.lines()).find(failed) {
            panic!("{}: {line}", contestant.name());
        }
        said
    }

    pub fn start_again(self) {
        let cluster = self.cluster;
        let log = path(cluster, "log");
        shell(
            cluster,
            &format!("pg_ctl start --wait -D {} --log={log}", data(cluster)),
        );
    }
}

/// What a single-user server reads: a statement a line, each prepared before it is first executed, where
/// the contestant does that.
fn script(contestant: Contestant, calls: &[Call]) -> String {
    let mut prepared: Vec<&'static str> = vec![];
    let mut lines: Vec<String> = contestant
        .session()
        .map(str::to_owned)
        .into_iter()
        .collect();
    for call in calls {
        if call.in_one_transaction {
            lines.push("BEGIN".to_owned());
        }
        for statement in &call.statements {
            if !contestant.prepares() {
                lines.push(written_out(statement));
                continue;
            }
            let number = prepared.iter().position(|sql| *sql == statement.sql);
            let number = number.unwrap_or_else(|| {
                let sql = statement.sql.replace('\n', " ");
                lines.push(format!("PREPARE s{} AS {sql}", prepared.len()));
                prepared.push(statement.sql);
                prepared.len() - 1
            });
            lines.push(execute(number, statement));
        }
        if call.in_one_transaction {
            lines.push("COMMIT".to_owned());
        }
    }
    lines.join("\n") + "\n"
}

fn execute(number: usize, statement: &Statement) -> String {
    let values: Vec<String> = statement
        .values
        .iter()
        .map(|value| value.literal())
        .collect();
    format!("EXECUTE s{number}({})", values.join(", "))
}

fn written_out(statement: &Statement) -> String {
    let sql = statement.sql.replace('\n', " ");
    // From the last one, since $1 is how $10 begins.
    let values = statement.values.iter().enumerate().rev();
    values.fold(sql, |sql, (place, value)| {
        sql.replace(&format!("${}", place + 1), &value.literal())
    })
}

fn path(cluster: &Cluster, name: &str) -> String {
    cluster.file(name).to_string_lossy().into_owned()
}

fn data(cluster: &Cluster) -> String {
    path(cluster, "data")
}

/// Runs a command line as whoever runs the server, and answers what it complained of.
fn shell(cluster: &Cluster, command: &str) -> String {
    // The server that is started keeps what it inherits, and nobody would ever see the end of a pipe.
    let errors = path(cluster, "errors");
    let output = cluster.shell(&format!("{{ {command}; }} </dev/null 2>{errors} 1>&2"));
    let said = fs::read_to_string(&errors).unwrap_or_default();
    assert!(output.status.success(), "{command}:\n{said}");
    said
}
