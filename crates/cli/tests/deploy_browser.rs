//! Reports and the live page in a real browser: no script error, everything drawn, nothing on top of anything else.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::site::Site;
use common::{Running, pccl, succeeded, text, until};
use serde_json::Value;

/// What the browser says about a page; `tests/browser/look.mjs` asks it.
fn look(url: &str, selector: Option<&str>) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join("../../target/tools/npm/node_modules");
    let chromium = PathBuf::from("/usr/bin/chromium-headless-shell");
    for tool in [&modules.join("puppeteer-core"), &chromium] {
        assert!(tool.exists(), "{} is not there: run `cargo xtask tools`", tool.display());
    }
    let mut node = Command::new("node");
    node.arg(root.join("tests/browser/look.mjs")).arg(&modules).arg(&chromium).arg(url).args(selector);
    let output = node.output().expect("node starts");
    succeeded(&output);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Brightness of `rgb(r, g, b)`, from 0 to 255.
fn brightness(color: &Value) -> u32 {
    let text = color.as_str().unwrap_or_default();
    let parts: Vec<u32> = text
        .trim_start_matches("rgba(")
        .trim_start_matches("rgb(")
        .trim_end_matches(')')
        .split(", ")
        .filter_map(|part| part.parse().ok())
        .collect();
    parts.iter().take(3).sum::<u32>() / 3
}

fn edge(node: &Value, side: &str) -> f64 {
    node[side].as_f64().expect("a number")
}

fn is_over(one: &Value, other: &Value) -> bool {
    // Neighbours touch; a pixel is no overlap.
    let apart = |first: &str, second: &str| edge(one, second) <= edge(other, first) + 1.0;
    let other_apart = |first: &str, second: &str| edge(other, second) <= edge(one, first) + 1.0;
    !(apart("left", "right")
        || other_apart("left", "right")
        || apart("top", "bottom")
        || other_apart("top", "bottom"))
}

/// Every look at a page: readable in its scheme, and no wider than the window.
fn readable(said: &Value) {
    assert_eq!(said["errors"], serde_json::json!([]));
    for look in said["looks"].as_array().expect("a list") {
        let what = format!("{} at {}", look["scheme"], look["width"]);
        let (ink, paper) = (brightness(&look["ink"]), brightness(&look["paper"]));
        assert_eq!(paper < 128, look["scheme"] == "dark", "{what}: {}", look["paper"]);
        assert!(ink.abs_diff(paper) > 125, "{what}: {ink} on {paper}");
        assert_eq!(look["overflow"], 0, "{what}: the page is wider than the window");
    }
}

/// A report in all looks: so many tasks with names, and a bar for each attempt, within the chart and apart.
fn chart(path: &Path, tasks: usize) {
    let said = look(&format!("file://{}", path.display()), None);
    readable(&said);
    for look in said["looks"].as_array().expect("a list") {
        let list = |name: &str| look[name].as_array().expect("a list").clone();
        let (names, bars, chart) = (list("names"), list("bars"), &look["chart"]);
        assert_eq!(names.len(), tasks);
        assert!(bars.len() >= tasks * 9 / 10, "{} bars", bars.len());
        for drawn in names.iter().chain(&bars) {
            assert!(
                edge(drawn, "right") > edge(drawn, "left") && edge(drawn, "bottom") > edge(drawn, "top"),
                "{drawn}"
            );
            let inside = edge(drawn, "left") >= edge(chart, "left") - 1.0
                && edge(drawn, "right") <= edge(chart, "right") + 1.0
                && edge(drawn, "bottom") <= edge(chart, "bottom") + 1.0;
            assert!(inside, "{drawn} is outside of the chart {chart}");
        }
        let longest = names.iter().map(|name| edge(name, "right")).fold(0.0, f64::max);
        let first = bars.iter().map(|bar| edge(bar, "left")).fold(f64::INFINITY, f64::min);
        assert!(longest <= first, "names end at {longest}, bars begin at {first}");
        for group in [&names, &list("axis")] {
            for pair in group.windows(2) {
                assert!(!is_over(&pair[0], &pair[1]), "{} and {}", pair[0], pair[1]);
            }
        }
        let headings = look["headings"].to_string();
        for heading in ["Where the time of all tasks went", "What ran when"] {
            assert!(headings.contains(heading), "{headings}");
        }
    }
}

#[test]
fn the_report_of_24_regions_and_that_of_2000_tasks_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let rehearse = |file: &Path| {
        let (file, page) = (file.display().to_string(), page.display().to_string());
        let output =
            pccl(&["deploy", "rehearse", &file, "--failing", "0.05", "--html", &page]).output().unwrap();
        assert!(page_is_there(&output), "{}", text(&output.stderr));
    };
    rehearse(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deployments/besu-138/deploy.yaml"));
    chart(&page, 1 + 24 + 24 + 48 + 2 + 24 + 24);
    let long = "a-region-with-a-name-as-long-as-the-clouds-allow-it-to-be-and-then-some";
    let names: Vec<String> = (0..500).map(|n| format!("{long}-{n:03}")).collect();
    let mut many = format!("name: many\ntargets: [{}]\nphases:\n", names.join(", "));
    for phase in ["a", "b", "c", "d"] {
        let line = format!(
            "  - {{ name: {phase}, for_each: targets, takes: {{ mean: 5m, cv: 0.5 }}, run: {{ command: {{ run: [x] }} }} }}\n"
        );
        many.push_str(&line);
    }
    let file = folder.path().join("many.yaml");
    fs::write(&file, many).unwrap();
    rehearse(&file);
    chart(&page, 2000);
}

/// A rehearsal in which something fails is written all the same.
fn page_is_there(output: &std::process::Output) -> bool {
    matches!(output.status.code(), Some(0 | 9))
}

#[test]
fn the_live_page_shows_a_run_while_it_runs() {
    let targets: Vec<String> = (1..=24).map(|n| format!("region{n:02}")).collect();
    let phase = |name: &str| {
        format!("  - {{ name: {name}, for_each: targets, run: {{ command: {{ run: [sh, task.sh] }} }} }}\n")
    };
    let site = Site::new(&format!(
        "name: live\nwidth: 5\ntargets: [{}]\nphases:\n{}{}",
        targets.join(", "),
        phase("one"),
        phase("two")
    ));
    fs::write(site.path("task.sh"), "echo x >> ran; while [ ! -e go ]; do sleep 0.05; done").unwrap();
    let mut engine = Running::start(site.command(&["run", "--quiet"]));
    until("five tasks run", || (site.lines("ran").len() == 5).then_some(()));
    let mut page = Running::start(site.command(&["serve", "--listen", "127.0.0.1:0"]));
    let url = page.line_with("listening on ").trim_start_matches("listening on ").to_owned();
    let said = look(&url, Some(".cell"));
    fs::write(site.path("go"), "").unwrap();
    readable(&said);
    for look in said["looks"].as_array().unwrap() {
        assert_eq!(look["cells"], 48);
        let text = look["text"].as_str().unwrap();
        for words in ["live · run 1", "running", "0 / 24", "5 running", "one of 5 slots", "region24"] {
            assert!(text.contains(words), "`{words}` is not on the page: {text}");
        }
    }
    engine.rest();
}
