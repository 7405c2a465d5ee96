//! The loads, and the graphs that each gives.

use std::time::Duration;

/// Whose time a graph shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The server's process.
    Server,
    /// All client processes.
    Clients,
}

/// One graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Its name, and its file's without the ending.
    pub(crate) name: &'static str,
    /// Whose time it shows.
    pub(crate) side: Side,
}

/// A load that is recorded once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    arguments: &'static [&'static str],
    /// The graphs that the recording gives.
    pub(crate) views: [View; 2],
}

/// All loads, in the order of the table. Calls of window 1 are synchronous.
pub(crate) const LOADS: &[Load] = &[
    Load { arguments: &["--clients", "1", "--window", "10", "--threads", "1"], views: views("server-st", "client-st") },
    Load { arguments: &["--clients", "17", "--window", "10", "--threads", "16"], views: views("server-mt", "client-mt") },
    Load {
        arguments: &["--clients", "1", "--window", "1", "--threads", "1", "--wait", "spin"],
        views: views("server-sync", "client-sync"),
    },
];

const fn views(server: &'static str, clients: &'static str) -> [View; 2] {
    [View { name: server, side: Side::Server }, View { name: clients, side: Side::Clients }]
}

impl Load {
    /// The benchmark's command line, its binary by name only.
    pub(crate) fn command(&self, time: Duration) -> Vec<String> {
        let mut words = vec!["bench-throughput".to_owned()];
        words.extend(self.arguments.iter().map(|&word| word.to_owned()));
        words.extend(["--seconds".to_owned(), time.as_secs_f64().to_string()]);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_no_folder_and_graphs_have_names_of_their_own() {
        let command = LOADS[0].command(Duration::from_millis(2500)).join(" ");
        assert_eq!(command, "bench-throughput --clients 1 --window 10 --threads 1 --seconds 2.5");
        let mut names: Vec<_> = LOADS.iter().flat_map(|load| load.views).map(|view| view.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 2 * LOADS.len());
    }
}
