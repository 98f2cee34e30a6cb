//! Tests that some machines cannot run. Where one cannot run, libtest-mimic reports it as ignored, with the reason.

use libtest_mimic::{Arguments, Completion, Trial};

/// The name of a test, the test, and its requirement: an error says why this machine does not meet it.
pub type Test = (&'static str, fn(), fn() -> Result<(), String>);

/// The requirement of a test that every machine can run.
pub fn no_requirement() -> Result<(), String> {
    Ok(())
}

/// The main function of a test target with `harness = false`. It takes the arguments of libtest and prints what libtest prints.
pub fn run_tests(tests: &[Test]) -> ! {
    let trials = tests.iter().map(|&(name, test, requirement)| {
        Trial::ignorable_test(name, move || {
            if let Err(reason) = requirement() {
                return Ok(Completion::ignored_with(reason));
            }
            test();
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit()
}
