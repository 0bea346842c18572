//! Who may depend on whom.

use super::Violation;
use super::tree::{Crate, Dependency};

/// The arrows of the house, as `ARCHITECTURE.md` draws them: room, and the rooms it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("collective", &[]),
    ("proto", &["collective"]),
    ("config", &[]),
    ("besu", &[]),
    ("kernels", &[]),
    ("deploy", &[]),
    ("observe", &[]),
    ("launch", &[]),
    ("bench", &["comm", "config", "observe"]),
    ("chaos", &["proto"]),
    ("engine", &["deploy", "launch"]),
    ("net", &["proto", "observe"]),
    ("master", &["net", "proto", "observe"]),
    ("comm", &["net", "proto", "kernels", "observe", "config"]),
    ("ffi", &["comm", "master", "observe"]),
    ("python", &["comm", "master", "observe"]),
    ("probe", &["net", "observe"]),
    ("doctor", &["master", "net", "probe", "proto", "observe"]),
    (
        "cli",
        &[
            "master", "comm", "deploy", "engine", "launch", "bench", "chaos", "besu", "probe", "doctor",
            "proto", "observe", "config",
        ],
    ),
    ("cloud", &["deploy"]),
    ("sim", &["proto", "kernels", "deploy"]),
    ("link", &[]),
    ("fuzz", &["proto", "net", "config", "deploy", "sim"]),
    ("xtask", &["link", "config"]),
];

/// The cores: their tests use nothing of ours.
const CORES: &[&str] = &["collective", "proto", "config", "kernels", "deploy", "besu"];

/// The crates that know no socket, clock, thread or entropy.
pub(super) const PURE: &[&str] = &["collective", "proto", "config", "deploy", "besu"];

/// Rooms that no user gets.
const NOT_SHIPPED: &[&str] = &["sim", "cloud", "link", "fuzz", "xtask"];

/// Packages that bring a socket, a clock, a thread, a file or entropy. The standard library has them too: `source`
/// looks for those names. `rand_core` is none of them: it has traits only, and takes entropy from `getrandom`.
const IMPURE: &[&str] = &[
    "async-std",
    "chrono",
    "crossbeam-channel",
    "fastrand",
    "getrandom",
    "hyper",
    "libc",
    "linux-raw-sys",
    "mio",
    "nix",
    "parking_lot",
    "polling",
    "rand",
    "rayon",
    "reqwest",
    "rusqlite",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "windows-sys",
];

pub(super) fn check(crates: &[Crate]) -> Vec<Violation> {
    crates.iter().flat_map(|one| check_crate(one, crates)).collect()
}

fn check_crate(one: &Crate, all: &[Crate]) -> Vec<Violation> {
    let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| *room == one.room) else {
        let advice = format!(
            "`{}` is not a room of the house: find the room this code belongs to, \
             or add it to ARROWS in xtask/src/tidy/arrows.rs and to ARCHITECTURE.md, and say why",
            one.room
        );
        return vec![Violation::new(&one.manifest, 1, "known-crate", advice)];
    };
    let mut found: Vec<_> =
        one.dependencies.iter().filter_map(|dependency| forbidden(one, dependency, allowed, all)).collect();
    for package in one.closure.iter().filter(|package| IMPURE.contains(&package.as_str())) {
        let advice = format!(
            "`{}` is pure and must not build on `{package}` (see `cargo tree -p {} -i {package}`): \
             take what it gives as an argument",
            one.room, one.package
        );
        found.push(Violation::new(&one.manifest, 1, "pure-dependencies", advice));
    }
    found
}

fn forbidden(one: &Crate, dependency: &Dependency, allowed: &[&str], all: &[Crate]) -> Option<Violation> {
    let package = &dependency.package;
    if package == "anyhow" && !dependency.for_tests && one.room != "xtask" {
        let advice = "`anyhow` is for xtask and tests: callers need an enum to decide what to do next";
        return Some(Violation::new(&one.manifest, 1, "typed-errors", advice));
    }
    let room = all.iter().find(|other| other.package == *package)?.room.as_str();
    let core = CORES.contains(&one.room.as_str());
    let advice = if dependency.for_tests {
        // Tests of a crate may use its neighbours; tests of a core would tie it to what it must not know.
        core.then(|| {
            format!("`{}` uses nothing of ours, also in tests: move the test to `sim` or `comm`", one.room)
        })
    } else if NOT_SHIPPED.contains(&room) && !NOT_SHIPPED.contains(&one.room.as_str()) {
        Some(format!("`{room}` is not shipped: use it in [dev-dependencies] only"))
    } else if !allowed.contains(&room) {
        let may = if allowed.is_empty() { "nothing of ours".to_owned() } else { allowed.join(", ") };
        Some(format!("`{}` may use {may}, not `{room}`: see the arrows in ARCHITECTURE.md", one.room))
    } else {
        None
    };
    advice.map(|advice| Violation::new(&one.manifest, 1, "arrows", advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str, uses: &[(&str, bool)]) -> Crate {
        let dependencies = uses
            .iter()
            .map(|(package, for_tests)| Dependency { package: (*package).to_owned(), for_tests: *for_tests });
        Crate {
            room: name.to_owned(),
            folder: format!("crates/{name}"),
            package: package(name),
            manifest: format!("crates/{name}/Cargo.toml"),
            dependencies: dependencies.collect(),
            ..Crate::default()
        }
    }

    fn package(room: &str) -> String {
        if room == "comm" { "pccl".to_owned() } else { format!("pccl-{room}") }
    }

    /// What is said about a house where only `one` has dependencies.
    fn said(one: Crate) -> Vec<(&'static str, String)> {
        let mut house: Vec<_> = ARROWS.iter().map(|(name, _)| room(name, &[])).collect();
        house.retain(|other| other.room != one.room);
        house.push(one);
        check(&house).into_iter().map(|violation| (violation.rule, violation.advice)).collect()
    }

    #[test]
    fn the_arrows_of_the_house_pass() {
        let house: Vec<_> = ARROWS
            .iter()
            .map(|(name, allowed)| {
                let packages: Vec<_> = allowed.iter().map(|other| package(other)).collect();
                room(name, &packages.iter().map(|package| (package.as_str(), false)).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(check(&house), []);
        assert_eq!(said(room("net", &[("tracing", false), ("pccl-proto", false)])), []);
    }

    #[test]
    fn an_arrow_that_is_not_drawn_is_refused_and_both_ends_are_named() {
        let said = said(room("net", &[("pccl-kernels", false)]));
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].0, "arrows");
        assert!(said[0].1.contains("`net` may use proto, observe, not `kernels`"), "{}", said[0].1);
    }

    #[test]
    fn tests_are_freer_but_not_those_of_a_core() {
        assert_eq!(said(room("comm", &[("pccl-master", true), ("pccl-sim", true)])), []);
        assert_eq!(said(room("proto", &[("pccl-sim", true)]))[0].0, "arrows");
        assert_eq!(said(room("proto", &[("proptest", true)])), []);
    }

    #[test]
    fn the_simulator_is_not_shipped() {
        let said = said(room("cli", &[("pccl-sim", false)]));
        assert!(said[0].1.contains("not shipped"), "{}", said[0].1);
        assert_eq!(self::said(room("xtask", &[("pccl-link", false)])), []);
        assert_eq!(self::said(room("xtask", &[("pccl-sim", false)]))[0].0, "arrows");
    }

    #[test]
    fn a_new_room_must_be_declared() {
        assert_eq!(said(room("utils", &[]))[0].0, "known-crate");
    }

    #[test]
    fn an_impure_package_at_any_depth_is_found() {
        let mut proto = room("proto", &[("uuid", false)]);
        proto.closure = ["uuid", "getrandom", "serde"].map(str::to_owned).into();
        let said = said(proto);
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].0, "pure-dependencies");
        assert!(said[0].1.contains("cargo tree -p pccl-proto -i getrandom"), "{}", said[0].1);
    }

    #[test]
    fn errors_of_libraries_are_typed() {
        assert_eq!(said(room("net", &[("anyhow", false)]))[0].0, "typed-errors");
        assert_eq!(said(room("net", &[("anyhow", true)])), []);
        assert_eq!(said(room("xtask", &[("anyhow", false)])), []);
    }
}
