//! `make torture`: all parts, or those that are named, each for the time it is given.

use std::env;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use magic_link_torture::ddl::ddl;
use magic_link_torture::hostile::hostile;
use magic_link_torture::interrupt::interrupt;
use magic_link_torture::kill::kill;
use magic_link_torture::memcheck::memcheck;
use magic_link_torture::promote::promote;
use magic_link_torture::run::Run;
use magic_link_torture::schedule::schedule;

/// What a part did, in one line; it panics at the first thing that does not hold.
type Part = fn(&Run) -> String;

const PARTS: [(&str, Part); 7] = [
    ("schedule", schedule),
    ("kill", kill),
    ("interrupt", interrupt),
    ("promote", promote),
    ("hostile", hostile),
    ("ddl", ddl),
    ("memcheck", memcheck),
];

fn main() -> ExitCode {
    let named: Vec<String> = env::args().skip(1).collect();
    let known = |name: &String| PARTS.iter().any(|(part, _)| part == name);
    if let Some(name) = named.iter().find(|name| !known(name)) {
        let parts = PARTS.map(|(part, _)| part).join(" ");
        eprintln!("torture: no part is called {name}; there are: {parts}");
        return ExitCode::FAILURE;
    }
    let Some((duration, seed)) = number("DURATION", 600).zip(number("SEED", clock())) else {
        eprintln!("torture: DURATION is a number of seconds, SEED a number");
        return ExitCode::FAILURE;
    };
    let wanted = |name: &str| named.is_empty() || named.iter().any(|part| part == name);
    let parts: Vec<_> = PARTS.into_iter().filter(|(name, _)| wanted(name)).collect();
    let count = parts.len();
    println!("SEED={seed} DURATION={duration} (seconds for each part)");
    for (number, (name, part)) in parts.into_iter().enumerate() {
        println!("[{}/{count}] {name}", number + 1);
        let done = part(&Run::new(seed, Duration::from_secs(duration)));
        println!("      {done}");
    }
    ExitCode::SUCCESS
}

/// None where it is set to what is no number.
fn number(name: &str, otherwise: u64) -> Option<u64> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().ok(),
        _ => Some(otherwise),
    }
}

fn clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
