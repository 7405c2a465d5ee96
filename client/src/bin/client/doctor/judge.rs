//! From facts to findings: what is wrong with a pair of files, and the remedy.

use super::Finding;
use super::examine::{Pair, Rings, Table};

/// What is to be said of a pair, in one finding or more.
pub(super) fn pair(pair: &Pair) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = pair.name.name();
    match &pair.rings {
        Rings::Live { pid, trouble } => findings.push(live(pair, *pid, trouble.as_deref())),
        Rings::Kept if pair.table == Table::Formatted => findings.push(Finding::fine(
            "kept",
            name,
            "left on purpose by its server; `server --name` serves its items again, `server --fresh` begins anew",
        )),
        Rings::Dead | Rings::Kept | Rings::Unfinished | Rings::Damaged(_) => findings.extend(abandoned(pair)),
        Rings::Missing => findings.extend(alone(pair)),
        Rings::Closed(why) => findings.push(closed(pair.name.rings_path(), why)),
        Rings::Other(why) => {
            let remedy = "remove or rename it by hand, or use another --name";
            findings.push(Finding::problem("foreign", pair.name.rings_path().display().to_string(), why, remedy));
        }
    }
    match &pair.table {
        Table::Other(why) => {
            let remedy = "remove or rename it by hand, or use another --name";
            findings.push(Finding::problem("foreign", pair.name.table_path().display().to_string(), why, remedy));
        }
        Table::Closed(why) => findings.push(closed(pair.name.table_path(), why)),
        Table::Missing | Table::Formatted | Table::Blank => {}
    }
    findings.extend(modes(pair));
    findings
}

fn live(pair: &Pair, pid: u32, trouble: Option<&str>) -> Finding {
    let name = pair.name.name();
    match (trouble, &pair.table) {
        (Some(trouble), _) => {
            Finding::problem("damaged", name, format!("server {pid} is alive, but {trouble}"), "restart the server")
        }
        (None, Table::Missing) => {
            let detail = format!("server {pid} is alive, but {} is gone", pair.name.table_path().display());
            Finding::problem("half", name, detail, "restart the server")
        }
        (None, _) => Finding::fine("ok", name, format!("server {pid} is alive")),
    }
}

/// Rings that no server holds.
fn abandoned(pair: &Pair) -> Option<Finding> {
    let name = pair.name.name();
    let clean = "`client doctor --clean` removes it";
    let serve = "start the server to serve its items again, or `client doctor --clean` removes them";
    if matches!(pair.table, Table::Other(_) | Table::Closed(_)) {
        // What to do about the table comes first, and is said of the table.
        return None;
    }
    let finding = match (&pair.rings, &pair.table) {
        (Rings::Damaged(why), _) => Finding::problem("damaged", name, why, clean),
        (_, Table::Missing) => Finding::problem("half", name, "rings without a table and without a server", clean),
        (Rings::Unfinished, _) | (_, Table::Blank) => {
            Finding::problem("unfinished", name, "its server died while it made or removed the region", clean)
        }
        _ => Finding::problem("stale", name, "its server is dead", serve),
    };
    Some(finding.removable())
}

/// A table without rings.
fn alone(pair: &Pair) -> Option<Finding> {
    let path = pair.name.table_path().display().to_string();
    match pair.table {
        Table::Formatted => {
            let remedy = "start the server to serve its items again, or `client doctor --clean` removes them";
            Some(Finding::problem("half", pair.name.name(), "a table without rings and without a server", remedy).removable())
        }
        // Nothing tells that it ever was a region's.
        Table::Blank => Some(Finding::problem("foreign", path, "found an empty file against a table file", "remove it by hand")),
        Table::Missing | Table::Closed(_) | Table::Other(_) => None,
    }
}

fn closed(path: std::path::PathBuf, why: &str) -> Finding {
    let remedy = "run as the server's user or group, or start the server with another --mode, --table-mode or --group";
    Finding::problem("mode", path.display().to_string(), why, remedy)
}

/// Clients write requests and read the table: others must be able to do neither more nor less.
fn modes(pair: &Pair) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut check = |path: std::path::PathBuf, mode: u32, wrong: u32, why: &str, change: &str| {
        let path = path.display().to_string();
        if mode & 0o600 != 0o600 {
            let detail = format!("found mode {mode:04o} against read and write for its owner");
            findings.push(Finding::problem("mode", path, detail, "chmod u+rw it"));
        } else if mode & wrong != 0 {
            findings.push(Finding::problem("mode", path, format!("found mode {mode:04o}, {why}"), change));
        }
    };
    let ours = !matches!(pair.rings, Rings::Other(_) | Rings::Missing);
    if let (Some(mode), true) = (pair.rings_mode, ours) {
        let remedy = "chmod o-w it, and give a group its right with --group and --mode 0660";
        check(pair.name.rings_path(), mode, 0o002, "which lets every user write requests", remedy);
    }
    if let (Some(mode), Table::Formatted) = (pair.table_mode, &pair.table) {
        let remedy = "chmod go-w it, and start the server without write rights in --table-mode";
        check(pair.name.table_path(), mode, 0o022, "which lets others than the server write the table", remedy);
    }
    findings
}

#[cfg(test)]
mod tests {
    use shmqueue::region::RegionName;

    use super::*;

    fn facts(rings: Rings, table: Table) -> Pair {
        let mode = |there: bool| there.then_some(0o600);
        Pair {
            name: RegionName::new("/d", "kv").expect("a usable name"),
            rings_mode: mode(rings != Rings::Missing),
            table_mode: mode(table != Table::Missing),
            rings,
            table,
        }
    }

    fn verdict(rings: Rings, table: Table) -> Vec<(&'static str, bool, bool)> {
        let findings = pair(&facts(rings, table));
        findings.iter().map(|finding| (finding.status, finding.is_problem(), finding.removable)).collect()
    }

    #[test]
    fn what_has_a_live_server_or_was_kept_is_never_removable() {
        let live = || Rings::Live { pid: 7, trouble: None };
        assert_eq!(verdict(live(), Table::Formatted), [("ok", false, false)]);
        assert_eq!(verdict(live(), Table::Blank), [("ok", false, false)]);
        assert_eq!(verdict(live(), Table::Missing), [("half", true, false)]);
        let damaged = Rings::Live { pid: 7, trouble: Some("it is truncated".into()) };
        assert_eq!(verdict(damaged, Table::Formatted), [("damaged", true, false)]);
        assert_eq!(verdict(Rings::Kept, Table::Formatted), [("kept", false, false)]);
    }

    #[test]
    fn what_a_dead_server_left_is_removable() {
        assert_eq!(verdict(Rings::Dead, Table::Formatted), [("stale", true, true)]);
        assert_eq!(verdict(Rings::Dead, Table::Missing), [("half", true, true)]);
        assert_eq!(verdict(Rings::Kept, Table::Missing), [("half", true, true)]);
        assert_eq!(verdict(Rings::Missing, Table::Formatted), [("half", true, true)]);
        assert_eq!(verdict(Rings::Unfinished, Table::Blank), [("unfinished", true, true)]);
        assert_eq!(verdict(Rings::Damaged("cut".into()), Table::Formatted), [("damaged", true, true)]);
    }

    #[test]
    fn what_is_no_regions_is_reported_and_left() {
        let other = || "found another magic".to_owned();
        assert_eq!(verdict(Rings::Other(other()), Table::Missing), [("foreign", true, false)]);
        assert_eq!(verdict(Rings::Missing, Table::Other(other())), [("foreign", true, false)]);
        assert_eq!(verdict(Rings::Missing, Table::Blank), [("foreign", true, false)]);
        assert_eq!(verdict(Rings::Dead, Table::Other(other())), [("foreign", true, false)]);
        assert_eq!(verdict(Rings::Closed("no".into()), Table::Missing), [("mode", true, false)]);
    }

    #[test]
    fn modes_that_keep_the_owner_out_or_let_others_write_are_reported() {
        let live = Rings::Live { pid: 7, trouble: None };
        let mut facts = facts(live, Table::Formatted);
        for (rings, table, want) in
            [(0o600, 0o600, 0), (0o660, 0o644, 0), (0o666, 0o600, 1), (0o600, 0o620, 1), (0o400, 0o602, 2)]
        {
            (facts.rings_mode, facts.table_mode) = (Some(rings), Some(table));
            let modes = pair(&facts).iter().filter(|finding| finding.status == "mode").count();
            assert_eq!(modes, want, "{rings:o} {table:o}");
        }
    }
}
