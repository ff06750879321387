//! The threads that serve a mount.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use zeroize::Zeroize;

use crate::connection::{Connection, MAX_REQUEST_BYTES, Reply};
use crate::filesystem::FileSystem;
use crate::tree::Tree;
use crate::wire::{Request, RequestHeader};

/// A file system and the connection that it serves.
pub struct Server<T: Tree> {
    fs: FileSystem<T>,
    connection: Arc<Connection>,
    threads: usize,
}

impl<T: Tree> Server<T> {
    /// A server of `fs`, for a mount that was greeted already.
    pub fn new(fs: FileSystem<T>, connection: Arc<Connection>, threads: usize) -> Self {
        Self {
            fs,
            connection,
            threads,
        }
    }

    /// Serves until the mount is gone.
    ///
    /// # Errors
    /// An error of the device, or of the system that gives no thread.
    pub fn run(self) -> io::Result<()> {
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

    /// Receives and answers requests, one after the other.
    fn serve(&self) -> Result<(), Errno> {
        let mut buffer = vec![0; MAX_REQUEST_BYTES];
        loop {
            let len = match self.connection.receive(&mut buffer) {
                Ok(len) => len,
                Err(Errno::AGAIN) => continue,
                Err(Errno::NODEV) => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let request = buffer.get_mut(..len).unwrap_or_default();
            self.answer(request)?;
            request.zeroize();
        }
    }

    fn answer(&self, bytes: &[u8]) -> Result<(), Errno> {
        // Without a head there is nobody to answer.
        let header = RequestHeader::parse(bytes).map_err(|_| Errno::PROTO)?;
        let reply = Reply::new(self.connection.clone(), header.unique.raw());
        match Request::parse(bytes) {
            Ok(request) => self.fs.serve(request, reply),
            Err(_) if !header.wants_answer() => reply.forgo(),
            Err(_) => reply.errno(libc::EINVAL),
        }
        Ok(())
    }
}
