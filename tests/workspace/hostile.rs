//! Bad input at every port of the real thing: it is refused, the node goes on, and whoever behaves notices nothing.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use stele_engine::environment::Environment;
use stele_tools::remote::runtime;
use stele_tools::sites::{Plan, Site, Sites};

use crate::cluster::words_command;
use crate::process::{lines, run, text, verify};
use crate::trial::told;

/// Longer than a node waits for the first words of anybody.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where peers reach it.
fn peer_address(site: &Site) -> String {
    let config = std::fs::read_to_string(site.config()).unwrap();
    let listen = config.split("[listen]").nth(1).unwrap();
    let peer = listen.lines().find_map(|line| line.strip_prefix("peer = ")).unwrap();
    peer.trim_matches('"').to_owned()
}

/// Says this and hears until the other end has had enough.
#[track_caller]
fn say(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before it has heard all.
    drop(socket.write_all(bytes));
    let mut heard = Vec::new();
    match socket.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{address} does not close: {error}"),
    }
    drop(socket.shutdown(Shutdown::Both));
    heard
}

/// A hello of node 2 to node 1 of some cluster.
fn hello(version: u16, class: u8, cluster: [u8; 32]) -> Vec<u8> {
    let mut hello = b"\x50\0\0\0STELPEER".to_vec();
    hello.extend(version.to_le_bytes());
    hello.push(class);
    hello.extend(cluster);
    hello.extend([2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // What it shows: it runs, in its first start, and holds nothing.
    hello.extend([1, 1, 0, 0, 0]);
    hello.extend([0; 16]);
    hello
}

#[test]
fn bad_input_at_the_ports_of_a_node_is_refused_and_disturbs_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let logs = runtime().map_err(|failure| failure.to_string()).unwrap().block_on(async {
        let plan = Plan { directory: directory.path(), sites: 3, extra: "log_level = \"debug\"\n", delay: None };
        let mut sites = told(Sites::make(&Environment::system(), &plan).await);
        told(sites.start());
        told(sites.ready().await);
        let (peer, client) = (peer_address(&sites.all()[0]), sites.all()[0].client.clone());
        let large = [&u32::MAX.to_le_bytes()[..], &[0; 4096]].concat();

        // Peers: what they are told stands in byte 14 of the answer to a hello.
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &large, &[0xff; 64], b"\0\0\0\0"] {
            assert_eq!(say(&peer, garbage), b"");
        }
        for (bytes, verdict) in [(hello(9, 1, [0; 32]), 1), (hello(2, 7, [0; 32]), 2), (hello(2, 1, [0; 32]), 3)] {
            let heard = say(&peer, &bytes);
            assert_eq!((heard.len(), heard[14]), (23, verdict), "{heard:?}");
        }
        // Clients: HTTP/2 or nothing.
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &large, &[0x16, 3, 1, 0, 5], b"PRI * HTTP/1.0\r\n"] {
            assert_eq!(say(&client, garbage), b"");
        }
        // A frame of HTTP/2 that is larger than any may be.
        say(&client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\0\0\0\0\0\x01");

        let endpoint = sites.reach().endpoint.join(",");
        let words =
            ["append", "--endpoint", &endpoint, "--stream", "s", "--writer", "w", "--kind", "Line", "--json", "-"];
        let appended = run(words_command(&words), text(&lines("line", 50)).as_bytes());
        assert_eq!(appended.output().lines().count(), 50);
        told(sites.caught_up().await);
        let said: Vec<_> = sites.all().iter().map(Site::output).collect();
        let logs: Vec<_> = sites.all().iter().map(Site::log).collect();
        told(sites.stop().await);
        let said = said.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>();
        assert!(said.iter().all(|said| !said.contains("panicked")));
        let refused = ["refused=Garbage", "refused=Version", "refused=Class", "refused=Cluster"];
        let counted = ["(\"CONNECTION_Garbage\", 4)", "(\"PEER_Garbage\", 4)", "(\"PEER_Version\", 1)"];
        for word in refused.into_iter().chain(counted) {
            assert!(said[0].contains(word), "{word} is not told");
        }
        logs
    });
    logs.iter().for_each(|log| verify(log));
}
