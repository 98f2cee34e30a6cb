//! The README, so that what it tells people to run is what the tests run.

const README: &str = include_str!("../../README.md");

/// The first block of a language below a heading.
pub fn readme_block(heading: &str, language: &str) -> &'static str {
    let below = README.split_once(heading).expect("no such heading").1;
    let fence = format!("```{language}\n");
    let block = below.split_once(&fence).expect("no such block").1;
    block.split_once("```").expect("no end of the block").0
}
