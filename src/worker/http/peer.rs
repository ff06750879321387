//! Peers of HTTP connections: other hosts by their addresses, users of this one by their uids.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most bytes read of a table of connections.
const MAX_TABLE: u64 = 8 * 1024 * 1024;

/// Whom a connection counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Uid(u32),
    Address(IpAddr),
}

/// Addresses on this host from which there are connections to its `port`, and whose they are.
pub(super) fn local_peers(port: u16) -> HashMap<SocketAddr, u32> {
    let mut found = HashMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let mut text = Vec::new();
        // Whoever is not found counts for its address.
        if let Ok(file) = File::open(table) {
            file.take(MAX_TABLE).read_to_end(&mut text).ok();
        }
        let text = String::from_utf8_lossy(&text);
        found.extend(text.lines().skip(1).filter_map(|line| peer_in(line, port)));
    }
    found
}

/// The near end of the connection in `line`, and its owner, if the far end is `port`.
fn peer_in(line: &str, port: u16) -> Option<(SocketAddr, u32)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (near, far) = (fields.next()?, fields.next()?);
    let uid = fields.nth(4)?.parse().ok()?;
    // A connection that its user has closed is shown as root's.
    let has_inode = fields.nth(1)? != "0";
    let is_to_port = address(far)?.port() == port;
    Some((address(near)?, uid)).filter(|_| has_inode && is_to_port)
}

/// Address as the kernel writes it: words of the machine's order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (digits, port) = text.split_once(':')?;
    let mut bytes = [0; 16];
    let bytes = bytes.get_mut(..digits.len() / 2)?;
    hex::decode_to_slice(digits, bytes).ok()?;
    for word in bytes.chunks_exact_mut(4) {
        if cfg!(target_endian = "little") {
            word.reverse();
        }
    }
    let ip = match *bytes {
        [a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&*bytes).ok()?)),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line = "   1: 0100007F:A1B2 0100007F:1F91 01 00000000:00000000 00:00000000 00000000  \
                    1001        0 4711 1 0000000000000000 20 4 30 10 -1";
        let near = "127.0.0.1:41394".parse().unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(peer_in(line, 8081), Some((near, 1001)));
        }
        assert_eq!(peer_in(line, 8082), None);
        assert_eq!(peer_in(&line.replace("4711", "0"), 8081), None, "closed");
        for bad in [
            "",
            "1: x",
            "1: 01:02 03:04 01 0 0 0 0 0 1",
            "1: 0100007F:1 0100007F",
        ] {
            assert_eq!(peer_in(bad, 8081), None, "{bad}");
        }
    }

    #[test]
    fn a_connection_of_ones_own_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let found = local_peers(listener.local_addr().unwrap().port());
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(found.get(&client.local_addr().unwrap()), Some(&own));
        }
    }
}
