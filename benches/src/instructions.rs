//! Instructions a call, counted by callgrind: the figure to trust on a machine that others use too.

use std::collections::HashMap;

use crate::contestants::{Call, Contestant, Statement, Value};
use crate::plot::Bars;
use crate::report::{Goal, Part, Row, progress};
use crate::server::{self, Stopped};
use crate::workload::{Workload, cases};

pub fn measure() -> Part {
    let cluster = server::start(&[]);
    let database = server::database(&cluster);
    let mut client = database.superuser();
    let mut first = 0;
    let cases = Workload::ALL.map(|workload| {
        first += 150;
        (workload, cases(&mut client, workload, 150, first))
    });
    server::run(&mut client, "VACUUM (ANALYZE)");
    drop(client);
    let stopped = Stopped::new(&cluster, &database);
    let mut counts = HashMap::new();
    for (workload, cases) in &cases {
        progress(workload.name());
        for contestant in Contestant::ALL {
            let calls: Option<Vec<Call>> = cases
                .iter()
                .map(|case| contestant.call(*workload, case))
                .collect();
            if let Some(calls) = calls {
                let count = stopped.instructions(contestant, &calls, true);
                progress(&format!(
                    "  {}: {:.1} thousand",
                    contestant.name(),
                    count / 1e3
                ));
                counts.insert((*workload, contestant), count);
            }
        }
    }
    let nothing = stopped.instructions(Contestant::Ours, &nothing(), true);
    stopped.start_again();
    let mut part = report(&counts);
    let figure = "instructions, an EXECUTE that does nothing";
    part.rows.push(Row::plain(figure, nothing, "each"));
    part
}

/// What each statement costs here before it does anything, to know how much of the counts that is.
fn nothing() -> Vec<Call> {
    let nothing = || Statement {
        sql: "SELECT $1::text",
        values: vec![Value::Text(String::new())],
    };
    (0..150).map(|_| nothing().into()).collect()
}

fn report(counts: &HashMap<(Workload, Contestant), f64>) -> Part {
    use Contestant::*;
    use Workload::*;
    let ours = |workload| counts[&(workload, Ours)];
    let against = |workload, contestant, goal| {
        let ratio = ours(workload) / counts[&(workload, contestant)];
        let figure = format!(
            "instructions, {}, to {}",
            workload.name(),
            contestant.name()
        );
        Row::ratio(figure, ratio, Goal::AtMost(goal))
    };
    let half_a_sign_in = |workload: Workload| {
        let ratio = ours(workload) / ours(SignIn);
        let figure = format!("instructions, {}, to a sign-in's", workload.name());
        Row::ratio(figure, ratio, Goal::AtMost(0.5))
    };
    let rows = vec![
        against(Redeem(1), PlPgsql, 0.60),
        against(Redeem(1), OneStatement, 0.85),
        against(Redeem(1), Baseline, 1.10),
        against(SignIn, PlPgsql, 0.60),
        against(Create, Baseline, 1.10),
        half_a_sign_in(Refused),
        half_a_sign_in(Check),
    ];
    let groups = Workload::ALL.map(|workload| {
        let bars = Contestant::ALL.map(|contestant| counts.get(&(workload, contestant)).copied());
        (workload.name().to_owned(), bars.to_vec())
    });
    Part {
        rows,
        plots: vec![Bars {
            file: "instructions",
            title: "Instructions a call (callgrind, warm plans)",
            unit: "thousand",
            scale: 1e-3,
            series: Contestant::ALL.map(Contestant::name).to_vec(),
            groups: groups.to_vec(),
        }],
    }
}
