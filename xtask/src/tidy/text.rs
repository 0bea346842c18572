//! Rules on the text of any file, whatever its language.

use super::Violation;
use super::tree::TextFile;

/// Written in two parts, here and below, so that this file does not break its own rules.
const UNFINISHED: &str = concat!("FIX", "ME");

/// Folders of one machine: a path that starts there means nothing to anybody else.
const PRIVATE_FOLDERS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];

pub(super) fn check(file: &TextFile) -> Vec<Violation> {
    let mut found: Vec<_> = workspace_lints(file).into_iter().collect();
    for (number, line) in file.text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.contains(UNFINISHED) {
            let advice = format!("finish it, or open an issue and name it here instead of {UNFINISHED}");
            found.push(Violation::new(&file.path, number, "unfinished", advice));
        }
        for folder in PRIVATE_FOLDERS.iter().filter(|folder| starts_path(line, folder)) {
            let advice = format!("`{folder}…` is a path of one machine: make it relative, or a setting");
            found.push(Violation::new(&file.path, number, "private-path", advice));
        }
    }
    found
}

/// The lints of the workspace bind a crate only if its manifest says so.
fn workspace_lints(file: &TextFile) -> Option<Violation> {
    let is_crate = file.path.ends_with("/Cargo.toml") && file.text.contains("[package]");
    let advice = "write `[lints]` and below it `workspace = true`";
    (is_crate && !file.text.contains("[lints]\nworkspace = true"))
        .then(|| Violation::new(&file.path, 1, "workspace-lints", advice))
}

/// Whether an absolute path in `folder` stands in the line: not `shared/work/x`, nor the path of a URL.
fn starts_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "._-~$}/".contains(c)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<(usize, &'static str)> {
        let file = TextFile { path: "docs/a.md".to_owned(), text: text.to_owned() };
        check(&file).into_iter().map(|violation| (violation.line, violation.rule)).collect()
    }

    #[test]
    fn a_private_path_is_found_where_it_starts() {
        let [work, root] = PRIVATE_FOLDERS else { panic!("two folders") };
        assert_eq!(
            said(&format!("ok\nopen({work}x)\n\"{root}y\"\n")),
            [(2, "private-path"), (3, "private-path")]
        );
        assert_eq!(said(&format!("{work}x")), [(1, "private-path")]);
    }

    #[test]
    fn part_of_another_path_is_not_one() {
        let work = PRIVATE_FOLDERS[0];
        assert_eq!(said(&format!("a{work}x https://host.org{work} ${{HOME}}{work} ~{work}")), []);
    }

    #[test]
    fn a_crate_takes_the_lints_of_the_workspace() {
        let said = |path: &str, text: &str| {
            let file = TextFile { path: path.to_owned(), text: text.to_owned() };
            check(&file).into_iter().map(|violation| violation.rule).collect::<Vec<_>>()
        };
        assert_eq!(said("crates/a/Cargo.toml", "[package]\n[dependencies]\n"), ["workspace-lints"]);
        assert_eq!(said("crates/a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n"), [""; 0]);
        assert_eq!(said("Cargo.toml", "[workspace]\n"), [""; 0]);
    }

    #[test]
    fn an_unfinished_place_is_found() {
        assert_eq!(said(&format!("a\nb\n// {UNFINISHED}: c\n")), [(3, "unfinished")]);
    }
}
