//! The threads that serve a mount.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use crate::buffers::{LeftRequest, RequestBuffer, RequestBuffers};
use crate::connection::{Connection, Reply};
use crate::filesystem::FileSystem;
use crate::tree::Tree;
use crate::wire::{Request, RequestHeader};

/// A file system, the connection that it serves, and the buffers that requests lie in.
pub struct Server<T: Tree> {
    fs: FileSystem<T>,
    connection: Arc<Connection>,
    buffers: Arc<RequestBuffers>,
    threads: usize,
}

/// Receiver of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receiver {
    /// This server.
    Own,
    /// One before it, that may have begun it, or somebody who does not serve.
    Other,
}

impl<T: Tree> Server<T> {
    /// A server of `fs`, for a mount that was greeted already.
    pub fn new(
        fs: FileSystem<T>,
        connection: Arc<Connection>,
        buffers: Arc<RequestBuffers>,
        threads: usize,
    ) -> Self {
        Self {
            fs,
            connection,
            buffers,
            threads,
        }
    }

    /// Serves until the mount is gone: first what others left.
    ///
    /// # Errors
    /// An error of the device, or of the system that gives no thread.
    pub fn run(self) -> io::Result<()> {
        self.connection.set_waiting(true)?;
        self.serve_left()?;
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for number in 0..self.threads {
                let name = format!("serve-{number}");
                let thread = std::thread::Builder::new().name(name);
                threads.push(thread.spawn_scoped(scope, || self.serve())?);
            }
            let ends = threads.into_iter().map(|thread| {
                // A panic would have ended the process.
                thread.join().unwrap_or(Err(Errno::IO))
            });
            Ok(ends.collect::<Result<Vec<()>, Errno>>().map(drop)?)
        })
    }

    /// Answers what a dead server had read and not answered, then what was read while nobody
    /// served.
    fn serve_left(&self) -> Result<(), Errno> {
        let mut seen = Vec::new();
        for left in self.buffers.take_left() {
            match left {
                LeftRequest::Unanswered(buffer) => {
                    seen.extend(RequestHeader::parse(buffer.request()));
                    self.answer(&Arc::new(buffer), Receiver::Other)?;
                }
                LeftRequest::Torn(buffer) => self.give_up(buffer),
                // The server may have opened something: no RELEASE will come.
                LeftRequest::Dismissed(request) => self.fs.close(request),
            }
        }
        let Some(mut backlog) = self.buffers.backlog() else {
            return Ok(());
        };
        for request in backlog.waiting() {
            // A server died when it had taken it over and not out.
            if seen.contains(&request.header) {
                backlog.finish(&request);
                continue;
            }
            let mut buffer = self.take_buffer()?;
            if backlog.hand_over(&request, &mut buffer) {
                self.answer(&Arc::new(buffer), Receiver::Other)?;
            } else {
                self.give_up(buffer);
            }
        }
        Ok(())
    }

    /// Answers a request whose bytes are not all there: who waits for it may ask again.
    fn give_up(&self, buffer: RequestBuffer) {
        if let Ok(header) = RequestHeader::parse(buffer.request()) {
            let request = Arc::new(buffer);
            let reply = Reply::new(self.connection.clone(), header.unique.request(), request);
            reply.errno(libc::EINTR);
        }
    }

    /// Receives and answers requests, one after the other.
    fn serve(&self) -> Result<(), Errno> {
        let mut buffer = Arc::new(self.take_buffer()?);
        loop {
            let Some(own) = Arc::get_mut(&mut buffer) else {
                // It holds a control request until that is answered.
                buffer = Arc::new(self.take_buffer()?);
                continue;
            };
            own.wipe();
            match self.connection.receive(own.room()) {
                Ok(len) => own.note_received(len),
                // Somebody guards the device who does not know that this server lives.
                Err(Errno::AGAIN) => {
                    self.connection.poll(None);
                    continue;
                }
                Err(Errno::NODEV) => return Ok(()),
                Err(errno) => return Err(errno),
            }
            self.answer(&buffer, Receiver::Own)?;
        }
    }

    fn take_buffer(&self) -> Result<RequestBuffer, Errno> {
        // There is one for each thread and each request that may wait.
        self.buffers.take().ok_or(Errno::NOBUFS)
    }

    fn answer(&self, buffer: &Arc<RequestBuffer>, receiver: Receiver) -> Result<(), Errno> {
        let bytes = buffer.request();
        // Without a head there is nobody to answer.
        let mut header = RequestHeader::parse(bytes).map_err(|_| Errno::PROTO)?;
        let unique = header.unique.request();
        let reply = Reply::new(self.connection.clone(), unique, buffer.clone());
        if receiver == Receiver::Other {
            header.unique = header.unique.again();
        }
        match Request::parse(bytes) {
            Ok(request) => self.fs.serve(Request { header, ..request }, reply),
            Err(_) if !header.wants_answer() => reply.forgo(),
            Err(_) => reply.errno(libc::EINVAL),
        }
        Ok(())
    }
}
