//! Tests of which a machine may be unable to run some: those are counted as ignored, with the reason.

use libtest_mimic::{Arguments, Completion, Trial};

/// The name of a test, the test, and what it needs: an error says why this machine has it not.
pub type Test = (&'static str, fn(), fn() -> Result<(), String>);

/// What a test needs that any machine can run.
pub fn nothing() -> Result<(), String> {
    Ok(())
}

/// The main function of a test program without libtest's own: takes its arguments, and prints what it prints.
pub fn run_tests(tests: &[Test]) -> ! {
    let trials = tests.iter().map(|&(name, test, needed)| {
        Trial::ignorable_test(name, move || {
            if let Err(reason) = needed() {
                return Ok(Completion::ignored_with(reason));
            }
            test();
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit()
}
