//! Every way to wait on one side with every way on the other.

use std::time::Duration;

use shmtable::{Client, Options, WaitMode};

use crate::daemon::Daemon;
use crate::mirror::Mirror;
use crate::requests::{Level, Request, When};
use crate::values::{Random, seed, value};

fn works(options: &Options, seed: u64, prefix: &str) {
    let mut random = Random::new(seed);
    let mut client = Client::attach(options).expect("attached");
    let mut mirror = Mirror::default();
    let request = |random: &mut Random| {
        let key = format!("{prefix}-{}", random.below(20)).into_bytes();
        let request = match random.below(3) {
            0 => Request::Insert(value(random.next(), random.below(100) as usize), When::Always),
            1 => Request::Read,
            _ => Request::Delete(When::Always),
        };
        (key, request)
    };
    for window in [1, 10, 200] {
        for level in [Level::Sync, Level::Poll] {
            for _ in 0..40 {
                let (key, request) = request(&mut random);
                mirror.send(&mut client, level, &key, &request);
            }
            mirror.settle(&mut client);
        }
        let series: Vec<_> = (0..300).map(|_| request(&mut random)).collect();
        mirror.run(&mut client, window, &series);
    }
}

#[test]
fn every_way_to_wait_works_with_every_other() {
    let seed = seed("modes");
    for server_waits in ["spin", "adaptive", "block"] {
        for threads in ["1", "3"] {
            let server = Daemon::start(&["--wait", server_waits, "-n", threads, "-s", "1024"]);
            for client_waits in [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Block] {
                let options = Options::new("shmtable").dir(server.dir()).wait(client_waits).timeout(Duration::from_secs(50));
                std::thread::scope(|scope| {
                    for client in 0..3 {
                        let options = &options;
                        scope.spawn(move || works(options, seed + client, &format!("{client_waits:?}-{client}")));
                    }
                });
            }
        }
    }
}
