//! Calls a second over a socket, by several clients at once, in short rounds in turn.

use std::collections::HashMap;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use magic_link_harness::postgres::{Client, Config, NoTls};
use magic_link_harness::{Cluster, Database};

use crate::contestants::{Call, Contestant};
use crate::plot::Bars;
use crate::proxy;
use crate::report::{Goal, Part, Row, median, progress};
use crate::server;
use crate::wire::Session;
use crate::workload::{Workload, cases};

/// How long a comparison is: rounds, and calls of each contestant in a round.
#[derive(Clone, Copy)]
pub struct Length {
    pub rounds: usize,
    pub calls: usize,
}

pub const FULL: Length = Length {
    rounds: 11,
    calls: 640,
};

const WORKLOAD: Workload = Workload::Redeem(1);
const CLIENTS: [usize; 3] = [1, 8, 32];
const DELAY: Duration = Duration::from_micros(500);

/// How a comparison is made.
#[derive(Clone, Copy)]
struct Setting {
    clients: usize,
    /// Whether a commit waits for the disk.
    durable: bool,
    delayed: bool,
}

impl Setting {
    fn name(self) -> String {
        let clients = match self.clients {
            1 => "1 client".to_owned(),
            clients => format!("{clients} clients"),
        };
        let commit = if self.durable {
            "durable"
        } else {
            "synchronous_commit off"
        };
        let network = if self.delayed {
            ", 0.5 ms each way"
        } else {
            ""
        };
        format!("{clients}, {commit}{network}")
    }
}

pub fn measure(length: Length) -> Part {
    let cluster = server::start(&[("fsync", "on"), ("shared_buffers", "512MB")]);
    let database = server::database(&cluster);
    let mut bench = Bench {
        cluster: &cluster,
        database: &database,
        port: None,
        next: 0,
    };
    let mut settings = vec![];
    for durable in [true, false] {
        settings.extend(CLIENTS.map(|clients| Setting {
            clients,
            durable,
            delayed: false,
        }));
    }
    settings.extend([1, 8].map(|clients| Setting {
        clients,
        durable: true,
        delayed: true,
    }));
    let mut part = Part::default();
    let mut groups = vec![];
    for setting in settings {
        progress(&setting.name());
        let times = bench.compare(setting, length);
        part.rows.extend(rows(setting, &times));
        let rates = Contestant::ALL
            .map(|contestant| Some(length.calls as f64 / median(&times[&contestant])));
        groups.push((setting.name(), rates.to_vec()));
    }
    part.plots.push(Bars {
        file: "throughput",
        title: "Redemptions a second (new user, one organization)",
        unit: "a second",
        scale: 1.0,
        series: Contestant::ALL.map(Contestant::name).to_vec(),
        groups,
    });
    part
}

fn rows(setting: Setting, times: &HashMap<Contestant, Vec<f64>>) -> Vec<Row> {
    let ours = median(&times[&Contestant::Ours]);
    let against = |contestant: Contestant, goal: Option<f64>| {
        let figure = format!("throughput, {}, to {}", setting.name(), contestant.name());
        let ratio = median(&times[&contestant]) / ours;
        match goal {
            Some(goal) => Row::ratio(figure, ratio, Goal::AtLeast(goal)),
            None => Row::plain(figure, ratio, "×"),
        }
    };
    let application_side = match setting {
        Setting { delayed: true, .. } => Some(5.0),
        Setting { durable: true, .. } => Some(3.0),
        _ => None,
    };
    vec![
        against(Contestant::PlPgsql, Some(1.0)),
        against(Contestant::OneStatement, Some(1.0)),
        against(Contestant::ApplicationSide, application_side),
        against(Contestant::ApplicationPrepared, None),
    ]
}

struct Bench<'c> {
    cluster: &'c Cluster,
    database: &'c Database<'c>,
    /// The proxy's, once it is there.
    port: Option<u16>,
    next: usize,
}

impl Bench<'_> {
    /// The seconds that each contestant took for a round's calls.
    fn compare(&mut self, setting: Setting, length: Length) -> HashMap<Contestant, Vec<f64>> {
        let mut times: HashMap<Contestant, Vec<f64>> = HashMap::new();
        let mut sessions: Vec<(Contestant, Vec<Session>)> = Contestant::ALL
            .map(|contestant| (contestant, self.sessions(contestant, setting)))
            .into();
        for round in 0..=length.rounds {
            for (contestant, sessions) in &mut sessions {
                let calls = self.calls(*contestant, length.calls);
                let seconds = timed(sessions, &calls);
                // The first one prepares statements and makes plans.
                if round > 0 {
                    times.entry(*contestant).or_default().push(seconds);
                }
            }
        }
        times
    }

    fn calls(&mut self, contestant: Contestant, count: usize) -> Vec<Call> {
        let mut client = self.database.superuser();
        let cases = cases(&mut client, WORKLOAD, count, self.next);
        self.next += count;
        cases
            .iter()
            .filter_map(|case| contestant.call(WORKLOAD, case))
            .collect()
    }

    fn sessions(&mut self, contestant: Contestant, setting: Setting) -> Vec<Session> {
        let commit = if setting.durable { "on" } else { "off" };
        (0..setting.clients)
            .map(|_| {
                let mut client = if setting.delayed {
                    self.delayed()
                } else {
                    self.database.superuser()
                };
                server::run(&mut client, &format!("SET synchronous_commit = {commit}"));
                Session::new(client, contestant)
            })
            .collect()
    }

    fn delayed(&mut self) -> Client {
        let port = *self.port.get_or_insert_with(|| {
            let server = self.cluster.file(".s.PGSQL.5432");
            proxy::delaying(&server, DELAY).expect("no port for the proxy")
        });
        Config::new()
            .host("127.0.0.1")
            .port(port)
            .user("postgres")
            .dbname(self.database.name())
            .connect(NoTls)
            .unwrap_or_else(|error| panic!("no connection through the proxy: {error}"))
    }
}

/// Shares the calls among the sessions, which begin at once, and answers how long all of it took.
fn timed(sessions: &mut [Session], calls: &[Call]) -> f64 {
    let start = Barrier::new(sessions.len() + 1);
    let share = calls.len().div_ceil(sessions.len());
    thread::scope(|scope| {
        for (session, calls) in sessions.iter_mut().zip(calls.chunks(share)) {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                calls.iter().for_each(|call| session.call(call));
            });
        }
        start.wait();
        Instant::now()
    })
    .elapsed()
    .as_secs_f64()
}
