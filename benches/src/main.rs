//! `make bench`: all parts, or those that are named.

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use magic_link_benches::report::{Part, table, write};
use magic_link_benches::{bulk, growth, instructions, memory, purge, throughput, wal};

type Measure = fn() -> Part;

const PARTS: [(&str, Measure); 7] = [
    ("instructions", instructions::measure),
    ("wal", wal::measure),
    ("throughput", || throughput::measure(throughput::FULL)),
    ("bulk", bulk::measure),
    ("purge", purge::measure),
    ("memory", memory::measure),
    ("growth", growth::measure),
];

fn main() -> ExitCode {
    let named: Vec<String> = env::args().skip(1).collect();
    let known = |name: &String| PARTS.iter().any(|(part, _)| part == name);
    if let Some(name) = named.iter().find(|name| !known(name)) {
        let parts = PARTS.map(|(part, _)| part).join(" ");
        eprintln!("bench: no part is called {name}; there are: {parts}");
        return ExitCode::FAILURE;
    }
    let wanted = |name: &str| named.is_empty() || named.iter().any(|part| part == name);
    let parts: Vec<_> = PARTS.into_iter().filter(|(name, _)| wanted(name)).collect();
    let count = parts.len();
    let mut results = vec![];
    for (number, (name, measure)) in parts.into_iter().enumerate() {
        println!("[{}/{count}] {name}", number + 1);
        let start = Instant::now();
        results.push(measure());
        println!("      {} s", start.elapsed().as_secs());
    }
    println!("\n{}", table(&results));
    if !named.is_empty() {
        println!("Only some parts: benches/results.md stays as it is.");
        return ExitCode::SUCCESS;
    }
    let server = env::var("MAGIC_LINK_SERVER_VERSION").unwrap_or("PostgreSQL".to_owned());
    let folder = env::var("MAGIC_LINK_RESULTS").unwrap_or("benches".to_owned());
    if let Err(error) = write(&folder, &results, &server) {
        eprintln!("bench: the results could not be written into {folder}: {error}");
        return ExitCode::FAILURE;
    }
    println!("Written to benches/results.md, with plots beside it.");
    ExitCode::SUCCESS
}
