//! `cargo xtask test`: all checks of behaviour, with one line at the end that says how they went.

use std::fs;
use std::io::ErrorKind;
use std::process::{ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::stage::{self, Counts, Stages};
use crate::{python, sim, tidy, tools};

/// Enough schedules to meet most faults in pairs, few enough for every change. More by hand: `cargo xtask sim`.
const SIMULATIONS: &str = "2000";
/// Runs over a network that spoils bytes.
const HOSTILE: &str = "2000";

/// Where nextest writes its report: always in the root, also if the target directory is elsewhere.
const NEXTEST_REPORT: &str = "target/nextest/default/junit.xml";

pub(crate) fn run(filters: &[String]) -> ExitCode {
    let mut stages = Stages::default();
    if filters.is_empty() {
        all(&mut stages);
    } else {
        println!("only tests named like {}: tidy, doc tests and simulator are left out", filters.join(", "));
        build_program(&mut stages);
        install_tools(&mut stages);
        stages.run("tests", || unit_and_end_to_end(filters));
    }
    stages.finish()
}

/// The stage of the Python package alone.
pub(crate) fn python_only() -> ExitCode {
    let mut stages = Stages::default();
    stages.run("python", python::test);
    stages.finish()
}

/// Every stage of the tests, for `test` and for `ci`.
pub(crate) fn all(stages: &mut Stages) {
    stages.run("tidy", || tidy::check().map(Counts::one));
    build_program(stages);
    install_tools(stages);
    stages.run("tests", || unit_and_end_to_end(&[]));
    stages.run("python", python::test);
    stages.run("doc tests", doc_tests);
    stages.command("simulator", sim::command(&["--runs", SIMULATIONS]));
    stages.command("spoiled bytes", sim::command(&["--hostile", HOSTILE]));
}

/// End-to-end tests start the program: a build error should be told as one, not as many failed tests.
fn build_program(stages: &mut Stages) {
    let mut build = stage::cargo();
    build.args(["build", "--package", "pccl-cli", "--bin", "pccl"]);
    stages.command("build", build);
}

fn install_tools(stages: &mut Stages) {
    stages.run("tools", || tools::run().map(|()| Counts::one(true)));
}

fn unit_and_end_to_end(filters: &[String]) -> Result<Counts> {
    if has_nextest() {
        nextest(filters)
    } else {
        println!(
            "cargo-nextest is not installed: using `cargo test`, which is slower and isolates tests less"
        );
        println!("to install it: cargo install cargo-nextest --locked");
        let mut command = stage::cargo();
        command.args(["test", "--workspace", "--tests", "--no-fail-fast", "--"]).args(filters);
        libtest(command)
    }
}

fn has_nextest() -> bool {
    let mut version = stage::cargo();
    version.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// Runs nextest and counts by its `JUnit` report, whose form is stable, where the text for people is not.
fn nextest(filters: &[String]) -> Result<Counts> {
    let report = stage::root().join(NEXTEST_REPORT);
    // The report of an earlier run must not speak for this one.
    match fs::remove_file(&report) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("failed to remove {}", report.display()));
        }
        _ => {}
    }
    let mut command = stage::cargo();
    command.args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(filters);
    let status = command.status().context("failed to start cargo nextest")?;
    let counts = match fs::read_to_string(&report) {
        Ok(text) => junit_counts(&text).with_context(|| format!("failed to read {}", report.display()))?,
        // It did not build, or no test is named like the filters.
        Err(error) if error.kind() == ErrorKind::NotFound && !has_run(status) => Counts::default(),
        Err(error) => {
            return Err(error).with_context(|| {
                format!("nextest wrote no report to {}: see .config/nextest.toml", report.display())
            });
        }
    };
    Ok(counts.or_failed(status))
}

/// Whether nextest came as far as running tests: 100 is its documented exit code for "some failed".
fn has_run(status: ExitStatus) -> bool {
    status.success() || status.code() == Some(100)
}

/// The counts in the first element of a `JUnit` report.
fn junit_counts(report: &str) -> Result<Counts> {
    let start = report.find("<testsuites").context("it has no <testsuites>")?;
    let tag = report[start..].split('>').next().unwrap_or_default();
    let attribute = |name: &str| -> Result<u64> {
        let value = tag.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        let (value, _) = value.with_context(|| format!("<testsuites> has no `{name}`"))?;
        value.parse().with_context(|| format!("`{name}` is `{value}`, not a number"))
    };
    let failed = attribute("failures")? + attribute("errors")?;
    match attribute("tests")?.checked_sub(failed) {
        Some(passed) => Ok(Counts { passed, failed }),
        None => bail!("it counts more failures than tests"),
    }
}

fn doc_tests() -> Result<Counts> {
    let mut command = stage::cargo();
    command.args(["test", "--doc", "--workspace", "--no-fail-fast"]);
    libtest(command)
}

fn libtest(command: std::process::Command) -> Result<Counts> {
    let (status, output) = stage::run_and_read(command)?;
    Ok(libtest_counts(&output).or_failed(status))
}

/// Adds up the lines `test result: ok. 3 passed; 0 failed; …` of all test programs.
fn libtest_counts(output: &str) -> Counts {
    let mut counts = Counts::default();
    for line in output.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1] {
                "passed;" => counts.passed += number,
                "failed;" => counts.failed += number,
                _ => {}
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_junit_report_is_counted_by_its_first_element() {
        let report = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="12" failures="2" errors="1" uuid="x" time="0.4">
    <testsuite name="pccl" tests="3" disabled="0" errors="0" failures="0">"#;
        assert_eq!(junit_counts(report).unwrap(), Counts { passed: 9, failed: 3 });
    }

    #[test]
    fn a_broken_report_is_an_error_and_not_a_success() {
        for report in [
            "",
            "<testsuites name=\"x\">",
            "<testsuites tests=\"x\" failures=\"0\" errors=\"0\">",
            "<testsuites tests=\"1\" failures=\"2\" errors=\"0\">",
        ] {
            assert!(junit_counts(report).is_err(), "{report}");
        }
    }

    #[test]
    fn the_results_of_all_test_programs_are_added() {
        let output = "running 3 tests\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            \n\
            test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out\n\
            a test said: 9 passed; 9 failed;\n";
        assert_eq!(libtest_counts(output), Counts { passed: 5, failed: 4 });
    }
}
