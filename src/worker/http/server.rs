//! Connections of the HTTP port: one thread has them all and waits for none of them.
//!
//! There is room for some. Where there is none, whoever has the most of them loses the one
//! that it has had for longest: users of this host are told apart, so that none of them can
//! keep the others from being answered.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::peer::{Peer, local_peers};
use super::{Readiness, respond, route};
use crate::common::subordinate_ids::{self, IdOwner};

/// Longest request head in bytes.
const MAX_HEAD: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// Time for a request's head to arrive, and for its answer to leave.
const PATIENCE: Duration = Duration::from_secs(3);
/// Connections there is room for.
const MAX_CONNECTIONS: usize = 64;
/// Connections that may wait for the next look at the host's table, which tells whose they are:
/// until then the oldest may be anybody's.
const MAX_UNTOLD: usize = 256;
/// How often the table of the host's connections is read, unless many come: it may be long.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const MILLISECOND: Duration = Duration::from_millis(1);
/// Pause where no connection can be accepted, for want of fds or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Progress of a connection.
enum RequestStage {
    Reading(Vec<u8>),
    Writing { answer: Vec<u8>, sent: usize },
}

/// One request, and its answer.
struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    peer: Peer,
    began: Instant,
    /// End of the patience with it.
    deadline: Instant,
    stage: RequestStage,
    /// Code of the answer.
    code: u16,
}

/// All connections, the oldest first.
pub(super) struct Server {
    readiness: Readiness,
    listener: TcpListener,
    connections: Vec<Connection>,
    looked: Option<Instant>,
}

impl Server {
    /// Server of `listener`, which others may be listening on, too.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn new(readiness: Readiness, listener: TcpListener) -> io::Result<Self> {
        // Another worker may have taken the connection that was announced.
        fcntl_setfl(&listener, fcntl_getfl(&listener)? | OFlags::NONBLOCK)?;
        Ok(Self {
            readiness,
            listener,
            connections: Vec::new(),
            looked: None,
        })
    }

    /// Serves for ever.
    pub(super) fn run(mut self) {
        loop {
            let now = Instant::now();
            self.connections.retain(|one| now < one.deadline);
            match self.wait(now) {
                Ok(ready) => self.advance(&ready),
                Err(Errno::INTR) => {}
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Waits for an event; tells of the listener, then of each connection whether it has one.
    fn wait(&self, now: Instant) -> rustix::io::Result<Vec<bool>> {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.connections.iter().map(|one| {
            let wanted = match one.stage {
                RequestStage::Reading(_) => PollFlags::IN,
                RequestStage::Writing { .. } => PollFlags::OUT,
            };
            PollFd::new(&one.stream, wanted)
        }));
        let deadlines = self.connections.iter().map(|one| one.deadline);
        // Rounded up: not to wake before the time has come.
        let left = |first: Instant| first.saturating_duration_since(now) + MILLISECOND;
        let look = self.next_look().filter(|_| self.is_crowded());
        let timeout = deadlines.chain(look).min().map(left);
        let timeout = timeout.map(Timespec::try_from);
        let timeout = timeout.transpose().map_err(|_| Errno::INVAL)?;
        poll(&mut fds, timeout.as_ref())?;
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    fn advance(&mut self, ready: &[bool]) {
        let readiness = &self.readiness;
        let mut ready = ready.iter().copied();
        let is_called = ready.next() == Some(true);
        self.connections
            .retain_mut(|one| !(ready.next() == Some(true) && one.advance(readiness)));
        if is_called {
            self.accept();
        }
        let is_early = self.next_look().is_some_and(|at| Instant::now() < at);
        if self.is_crowded() && (!is_early || self.connections.len() > MAX_UNTOLD) {
            self.identify();
            while self.is_crowded() {
                self.evict();
            }
        }
    }

    fn is_crowded(&self) -> bool {
        self.connections.len() > MAX_CONNECTIONS
    }

    /// When the table of the host's connections may be read again.
    fn next_look(&self) -> Option<Instant> {
        self.looked.map(|at| at + LOOK_INTERVAL)
    }

    fn accept(&mut self) {
        for _ in 0..MAX_CONNECTIONS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&self.listener, flags) {
                Ok(socket) => self.take(socket.into()),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    self.evict();
                    return std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn take(&mut self, stream: TcpStream) {
        // Without an address it is gone already.
        let Ok(address) = stream.peer_addr() else {
            return;
        };
        let began = Instant::now();
        let mut one = Connection {
            stream,
            address,
            peer: Peer::Address(address.ip().to_canonical()),
            began,
            deadline: began + PATIENCE,
            stage: RequestStage::Reading(Vec::new()),
            code: 0,
        };
        // Most requests are there at once.
        if one.advance(&self.readiness) {
            return;
        }
        self.connections.push(one);
    }

    /// Closes the oldest connection of whoever has the most.
    fn evict(&mut self) {
        let count = |peer| {
            self.connections
                .iter()
                .filter(|one| one.peer == peer)
                .count()
        };
        let counts = self.connections.iter().map(|one| count(one.peer));
        let Some(most) = counts.clone().max() else {
            return;
        };
        if let Some(victim) = counts.into_iter().position(|count| count == most) {
            self.connections.remove(victim);
        }
    }

    /// Finds out which users of this host the connections are of.
    fn identify(&mut self) {
        self.looked = Some(Instant::now());
        let Ok(own) = self.listener.local_addr() else {
            return;
        };
        let found = local_peers(own.port());
        for one in &mut self.connections {
            let canonical = SocketAddr::new(one.address.ip().to_canonical(), one.address.port());
            if let Some(&uid) = found.get(&canonical) {
                one.peer = match subordinate_ids::owner_of(uid, 0) {
                    Some(IdOwner::User(owner)) => Peer::Uid(owner),
                    Some(IdOwner::Several) | None => Peer::Uid(uid),
                };
            }
        }
    }
}

impl Connection {
    /// Goes on as far as it goes without waiting; gives whether it is over.
    fn advance(&mut self, readiness: &Readiness) -> bool {
        if let RequestStage::Reading(head) = &mut self.stage {
            match read_head(&mut self.stream, head) {
                Ok(request) => self.answer(readiness, request),
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
        let RequestStage::Writing { answer, sent } = &mut self.stage else {
            return false;
        };
        while let Some(rest) = answer.get(*sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(n) => *sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => break,
            }
        }
        if let Ok(status) = readiness.status() {
            let service = &status.metrics().service;
            service
                .http
                .with_label_values(&[&self.code.to_string()])
                .inc();
            service
                .http_seconds
                .observe(self.began.elapsed().as_secs_f64());
        }
        true
    }

    fn answer(&mut self, readiness: &Readiness, request: Option<(String, String)>) {
        let status = readiness.status();
        let (answer, head_only) = match request {
            Some((method, path)) => {
                let answer = route(status.as_deref(), &method, &path);
                (answer, method == "HEAD")
            }
            None => (
                super::HttpAnswer::text(400, "malformed or too large"),
                false,
            ),
        };
        self.code = answer.code;
        self.deadline = Instant::now() + PATIENCE;
        self.stage = RequestStage::Writing {
            answer: respond(&answer, head_only),
            sent: 0,
        };
    }
}

/// Method and path once the head is complete, or `None` for what is no request within the
/// bounds.
///
/// # Errors
/// `WouldBlock` while there is more to come; otherwise the client is gone.
fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<Option<(String, String)>> {
    let mut piece = [0; 1024];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Err(_) => return Ok(None),
            Ok(httparse::Status::Complete(_)) => {
                let method = request.method.unwrap_or_default().to_owned();
                let target = request.path.unwrap_or_default();
                let path = target.split('?').next().unwrap_or_default().to_owned();
                return Ok(Some((method, path)));
            }
            Ok(httparse::Status::Partial) if head.len() >= MAX_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => {}
        }
        match stream.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(piece.get(..n).unwrap_or_default()),
        }
    }
}
