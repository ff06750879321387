//! Dropping pages of secrets whose cached reads are allowed.
//!
//! The kernel may hold the caller of an invalidation for seconds behind an
//! outstanding cached READ, so that a thread of its own does it, which holds
//! nothing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use crate::connection::Connection;

/// Invalidations that may wait. More are dropped: the pages go with the node, which the
/// kernel forgets once nobody has it open and another version is current.
const MAX_WAITING: usize = 1024;

/// Time that a revocation waits for its pages to be dropped.
const REVOCATION_WAIT: Duration = Duration::from_secs(2);

/// A node whose pages are to be dropped.
struct Invalidation {
    node: u64,
    /// Told once it is done.
    done: Option<Sender<()>>,
}

/// The thread that asks the kernel to forget pages.
pub(crate) struct PageInvalidator {
    queue: SyncSender<Invalidation>,
}

impl PageInvalidator {
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start(connection: Arc<Connection>) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(MAX_WAITING);
        std::thread::Builder::new()
            .name("pages".into())
            .spawn(move || run(&connection, &waiting))?;
        Ok(Self { queue })
    }

    /// Drops what the kernel keeps of `node`, soon.
    pub(crate) fn invalidate(&self, node: u64) {
        self.queue.try_send(Invalidation { node, done: None }).ok();
    }

    /// Drops what the kernel keeps of `node` before it returns, if that does not
    /// take for ever.
    pub(crate) fn invalidate_now(&self, node: u64) {
        let (done, wait) = channel();
        let invalidation = Invalidation {
            node,
            done: Some(done),
        };
        if self.queue.send(invalidation).is_ok() {
            wait.recv_timeout(REVOCATION_WAIT).ok();
        }
    }
}

fn run(connection: &Connection, waiting: &Receiver<Invalidation>) {
    for invalidation in waiting {
        // The inode may be gone, and with it its pages.
        connection.invalidate_pages(invalidation.node).ok();
        if let Some(done) = invalidation.done {
            // The revocation may have waited long enough.
            done.send(()).ok();
        }
    }
}
