//! What came out: a table on the terminal, and `results.md`.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::plot::Bars;

/// What one part of the benchmark found.
#[derive(Default)]
pub struct Part {
    pub rows: Vec<Row>,
    pub plots: Vec<Bars>,
}

/// A figure beside what it ought to be.
pub struct Row {
    pub figure: String,
    pub goal: Option<Goal>,
    pub value: f64,
    pub unit: &'static str,
}

#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    pub fn ratio(figure: impl Into<String>, value: f64, goal: Goal) -> Self {
        Self {
            figure: figure.into(),
            goal: Some(goal),
            value,
            unit: "×",
        }
    }

    /// A figure that no goal is set for.
    pub fn plain(figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            figure: figure.into(),
            goal: None,
            value,
            unit,
        }
    }

    fn goal(&self) -> String {
        match self.goal {
            Some(Goal::AtMost(goal)) => format!("≤ {goal} {}", self.unit),
            Some(Goal::AtLeast(goal)) => format!("≥ {goal} {}", self.unit),
            None => String::new(),
        }
    }

    fn measured(&self) -> String {
        let digits = match self.value.abs() {
            value if value >= 1000.0 => 0,
            value if value >= 10.0 => 1,
            _ => 3,
        };
        format!("{:.digits$} {}", self.value, self.unit)
    }

    fn met(&self) -> &'static str {
        match self.goal {
            Some(Goal::AtMost(goal)) if self.value <= goal => "yes",
            Some(Goal::AtLeast(goal)) if self.value >= goal => "yes",
            Some(_) => "no",
            None => "",
        }
    }
}

/// Says what is being done, to somebody who waits.
pub fn progress(what: &str) {
    println!("      {what}");
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn table(parts: &[Part]) -> String {
    let rows = parts.iter().flat_map(|part| &part.rows);
    let width = rows
        .clone()
        .map(|row| row.figure.chars().count())
        .max()
        .unwrap_or(0);
    let mut table = format!(
        "{:width$}  {:>12}  {:>12}  met\n",
        "figure", "goal", "measured"
    );
    for row in rows {
        let (figure, goal, measured) = (&row.figure, row.goal(), row.measured());
        let _ = writeln!(
            table,
            "{figure:width$}  {goal:>12}  {measured:>12}  {}",
            row.met()
        );
    }
    table
}

/// Writes `results.md` and the plots into a folder.
pub fn write(folder: &str, parts: &[Part], server: &str) -> std::io::Result<()> {
    let mut page = format!("# Results of `make bench`\n\n{}\n", machine(server));
    page += "| figure | goal | measured | met |\n|---|---|---|---|\n";
    for row in parts.iter().flat_map(|part| &part.rows) {
        let (goal, measured, met) = (row.goal(), row.measured(), row.met());
        let _ = writeln!(page, "| {} | {goal} | {measured} | {met} |", row.figure);
    }
    for plot in parts.iter().flat_map(|part| &part.plots) {
        let _ = write!(
            page,
            "\n## {}\n\n![{}]({}.svg)\n\n",
            plot.title, plot.title, plot.file
        );
        page += &plot.table();
        fs::write(format!("{folder}/{}.svg", plot.file), plot.svg())?;
    }
    fs::write(format!("{folder}/results.md"), page)
}

/// What it ran on; no names.
fn machine(server: &str) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let cores = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = memory
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse::<f64>().ok());
    let gibibytes = kibibytes.unwrap_or(f64::NAN) / 1024.0 / 1024.0;
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let system = system.unwrap_or("unknown").trim_matches('"');
    format!(
        "{}. {model}, {cores} cores, {gibibytes:.0} GiB, {system}, Linux {}; {server}; {}; magic_link {}, release build.\n",
        said("date", &["-u", "+%Y-%m-%d"]),
        said("uname", &["-r"]),
        said("rustc", &["--version"]),
        env!("CARGO_PKG_VERSION"),
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| format!("{program}: not there"))
}
