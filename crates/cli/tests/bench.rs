//! `pccl bench`: its rows are what other programs read.

mod common;

use common::{objects, run, succeeded, text};

#[test]
fn a_row_has_all_its_fields_and_no_wrong_element() {
    let output = run(&["bench", "--peers", "2,3", "--bytes", "4KiB..8KiB", "--iters", "7", "--json"]);
    succeeded(&output);
    let rows = objects(&output);
    let cells: Vec<(u64, u64)> =
        rows.iter().map(|row| (row["peers"].as_u64().unwrap(), row["bytes"].as_u64().unwrap())).collect();
    assert_eq!(cells, [(2, 4096), (2, 8192), (3, 4096), (3, 8192)]);
    for row in &rows {
        assert_eq!((&row["dtype"], &row["op"], &row["iters"]), (&"f32".into(), &"sum".into(), &7.into()));
        assert_eq!(row["wrong"], 0);
        for positive in ["median_s", "p99_s", "algbw_gbs", "busbw_gbs", "max_rss_bytes"] {
            assert!(row[positive].as_f64().unwrap() > 0.0, "{positive}: {row}");
        }
        assert!(!row["algorithm"].as_str().unwrap().is_empty());
    }
}

#[test]
fn types_operators_and_algorithms_are_chosen_and_in_place_too() {
    let args = ["bench", "--peers", "3", "--bytes", "6002", "--iters", "3", "--json"];
    let chosen = [
        ["--dtype=bf16", "--op=avg", "--algorithm=ring"],
        ["--dtype=u16", "--op=prod", "--algorithm=direct"],
        ["--dtype=i8", "--op=min", "--in-place"],
    ];
    for more in chosen {
        let output = run(&[&args[..], &more[..]].concat());
        succeeded(&output);
        let row = objects(&output).pop().unwrap();
        assert_eq!(row["wrong"], 0, "{row}");
        for (key, value) in more.iter().filter_map(|arg| arg.trim_start_matches("--").split_once('=')) {
            assert_eq!(row[key], value, "{row}");
        }
    }
}

#[test]
fn what_travels_as_integers_is_as_near_as_it_can_be() {
    for (how, dtype) in [("u8-min-max", "f32"), ("u16-zero-point", "f64"), ("u8-min-max", "bf16")] {
        let output = run(&[
            "bench",
            "--peers=3",
            "--bytes=80KiB",
            "--iters=3",
            "--json",
            "--quantize",
            how,
            "--dtype",
            dtype,
        ]);
        succeeded(&output);
        let row = objects(&output).pop().unwrap();
        assert_eq!((&row["quantize"], &row["wrong"]), (&how.into(), &0.into()), "{row}");
    }
    let refused = run(&["bench", "--quantize=u8-min-max", "--op=max"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("take sum or avg"), "{refused:?}");
}

#[test]
fn a_person_gets_a_table() {
    let output = run(&["bench", "--peers", "2", "--bytes", "4KiB", "--iters", "3"]);
    succeeded(&output);
    let text = text(&output.stdout);
    let mut lines = text.lines();
    let titles: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(titles[..5], ["peers", "size", "count", "type", "op"]);
    for title in ["time", "algbw", "busbw", "wrong"] {
        assert!(titles.contains(&title), "{title}");
    }
    let cells: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(cells[..5], ["2", "4KiB", "1024", "f32", "sum"]);
}

#[test]
fn what_tls_costs_is_measured_beside_the_bare_cipher() {
    let output = run(&["bench", "--tls", "--peers", "2", "--bytes", "64KiB", "--iters", "5", "--json"]);
    succeeded(&output);
    let rows = objects(&output);
    let [row] = &rows[..] else { panic!("one row: {rows:?}") };
    for figure in ["plain_s", "tls_s", "cipher_s"] {
        assert!(row[figure].as_f64().is_some_and(|s| s > 0.0), "{figure}: {row}");
    }
    assert!(row["ratio"].is_f64() && row["peers"] == 2 && row["bytes"] == 65_536, "{row}");
}
