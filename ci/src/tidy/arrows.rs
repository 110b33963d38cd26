//! Which way dependencies point: wire ← storage ← node ← sim ← scenarios, and inside node
//! server → api → {replica, coordinator, metadata, controller} → runtime.
//!
//! Owns: both tables. Looks at `use` lines and paths in code outside of tests, and at `[dependencies]`.

use super::source::{Source, is_word, line_of, words};
use super::{Finding, finding};

/// A crate's folder, and the crates whose names must not appear in it.
const CRATES: &[(&str, &[&str])] = &[
    ("wire/", &["dejaq_storage", "dejaq", "dejaq_sim", "dejaq_scenarios", "madsim"]),
    ("storage/", &["dejaq", "dejaq_sim", "dejaq_scenarios", "madsim"]),
    ("node/", &["dejaq_sim", "dejaq_scenarios", "madsim"]),
    ("sim/", &["dejaq_scenarios"]),
    ("ci/", &["dejaq_sim", "dejaq_scenarios", "madsim"]),
];

/// A module of node, and the modules of node above it.
const MODULES: &[(&str, &[&str])] = &[
    (
        "runtime",
        &[
            "api",
            "broker",
            "cli",
            "client",
            "controller",
            "coordinator",
            "metadata",
            "peer",
            "replica",
            "server",
        ],
    ),
    ("metadata", &["api", "broker", "cli", "client", "controller", "coordinator", "replica", "server"]),
    ("controller", &["api", "broker", "cli", "client", "coordinator", "replica", "server"]),
    ("replica", &["api", "broker", "cli", "client", "controller", "coordinator", "server"]),
    (
        "peer",
        &["api", "broker", "cli", "client", "controller", "coordinator", "metadata", "replica", "server"],
    ),
    ("coordinator", &["api", "broker", "cli", "client", "controller", "server"]),
    ("api", &["broker", "cli", "client"]),
    ("server", &["api", "broker", "cli", "client", "controller", "coordinator", "metadata", "replica"]),
    ("client", &["api", "broker", "cli", "controller", "coordinator", "metadata", "replica", "server"]),
    (
        "config",
        &["api", "broker", "cli", "client", "controller", "coordinator", "metadata", "replica", "server"],
    ),
    ("broker", &["cli"]),
];

/// Plain values that a neighbour may name: module, path.
const SHARED: &[(&str, &str)] =
    &[("metadata", "crate::replica::policy::"), ("controller", "crate::replica::policy::")];

pub fn check(source: &Source, found: &mut Vec<Finding>) {
    for (folder, barred) in CRATES {
        if !source.path.starts_with(folder) {
            continue;
        }
        for name in *barred {
            for at in words(&source.product, &format!("{name}::")) {
                // A path like `crate::dejaq::` or a field is not the crate.
                if !source.product[..at].ends_with("::") {
                    let text = format!("`{name}` lies above {folder}: the arrow points down only");
                    found.push(finding(source, line_of(&source.product, at), text));
                }
            }
        }
    }
    let Some(inside) = source.path.strip_prefix("node/src/") else { return };
    let module = inside.split(['/', '.']).next().unwrap_or_default();
    let Some((_, barred)) = MODULES.iter().find(|(name, _)| *name == module) else { return };
    for (at, used) in uses_of_crate(&source.product) {
        let shared =
            SHARED.iter().any(|(who, what)| *who == module && source.product[at..].starts_with(what));
        if barred.contains(&used.as_str()) && !shared {
            let text = format!("node's `{module}` uses `{used}`, which lies above or beside it");
            found.push(finding(source, line_of(&source.product, at), text));
        }
    }
}

/// The first segment behind each `crate::`, also inside of a group.
fn uses_of_crate(code: &str) -> Vec<(usize, String)> {
    let mut uses = Vec::new();
    for at in words(code, "crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            uses.push((at, rest.chars().take_while(|c| is_word(*c)).collect()));
            continue;
        };
        let mut depth = 0;
        let mut name = String::new();
        let mut behind_path = false;
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    uses.push((at, std::mem::take(&mut name)));
                    behind_path = false;
                }
                ':' if depth == 0 => behind_path = true,
                _ if depth == 0 && is_word(c) && !behind_path => name.push(c),
                _ => {}
            }
        }
        uses.push((at, name));
    }
    uses
}

/// `[dependencies]` of a production crate must not name madsim or a crate above it.
pub fn check_manifest(path: &str, text: &str, found: &mut Vec<Finding>) {
    let folder = path.trim_end_matches("Cargo.toml");
    let Some((_, barred)) = CRATES.iter().find(|(name, _)| *name == folder) else { return };
    let mut section = "";
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default().replace('-', "_");
        if section == "[dependencies]" && barred.contains(&name.as_str()) {
            let text = format!("{path} depends on `{name}`, which lies above it");
            found.push(Finding { path: path.to_owned(), line: index + 1, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        let mut found = Vec::new();
        check(&Source::new(path, text), &mut found);
        found.len()
    }

    #[test]
    fn an_arrow_that_points_up_is_red() {
        assert_eq!(count("wire/src/a.rs", "use dejaq_storage::Log;"), 1);
        assert_eq!(count("storage/src/a.rs", "use madsim::time;"), 1);
        assert_eq!(count("node/src/runtime/a.rs", "use crate::server::X;"), 1);
        assert_eq!(count("node/src/replica/a.rs", "fn f() { crate::api::g() }"), 1);
        assert_eq!(count("node/src/replica.rs", "use crate::{runtime::Mono, api::{a, b}};"), 1);
    }

    #[test]
    fn an_arrow_that_points_down_is_fine() {
        assert_eq!(count("node/src/api/a.rs", "use crate::{replica::X, metadata::{Y, api}};"), 0);
        assert_eq!(count("node/src/a.rs", "use dejaq_storage::Log; use dejaq_wire::ids;"), 0);
        assert_eq!(count("storage/src/a.rs", "use dejaq_wire::ids;"), 0);
        assert_eq!(count("wire/src/a.rs", "// see dejaq_storage::Log"), 0);
    }

    #[test]
    fn a_manifest_that_points_up_is_red() {
        let mut found = Vec::new();
        check_manifest(
            "node/Cargo.toml",
            "[dependencies]\nmadsim.workspace = true\n[dev-dependencies]\nmadsim = \"1\"",
            &mut found,
        );
        assert_eq!(found.len(), 1);
        check_manifest("sim/Cargo.toml", "[dependencies]\nmadsim.workspace = true", &mut found);
        assert_eq!(found.len(), 1);
    }
}
