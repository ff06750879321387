//! Dropping pages of secrets whose cached reads are allowed.
//!
//! The kernel may hold the caller of an invalidation for seconds behind an
//! outstanding cached READ, so that a thread of its own does it, which holds
//! nothing.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use fuser::{INodeNo, Notifier};

/// Invalidations that may wait. More are dropped: the next open of the secret
/// invalidates its pages too.
const QUEUE: usize = 1024;

/// How long a revocation waits for its pages to be dropped.
const PATIENCE: Duration = Duration::from_secs(2);

/// An inode whose pages are to be dropped, and who waits for it.
type Errand = (Notifier, u64, Option<Sender<()>>);

/// Asks the kernel to forget pages.
pub(crate) struct PageCache {
    queue: SyncSender<Errand>,
    notifier: OnceLock<Notifier>,
}

impl PageCache {
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, inodes) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("pages".into())
            .spawn(move || run(&inodes))?;
        Ok(Self {
            queue,
            notifier: OnceLock::new(),
        })
    }

    /// To be called once the session stands.
    pub(crate) fn attach(&self, notifier: Notifier) {
        // A second session would be another file system's.
        self.notifier.set(notifier).ok();
    }

    /// Drops what the kernel keeps of `ino`, soon.
    pub(crate) fn drop_pages(&self, ino: u64) {
        if let Some(notifier) = self.notifier.get() {
            self.queue.try_send((notifier.clone(), ino, None)).ok();
        }
    }

    /// Drops what the kernel keeps of `ino` before it returns, if that does not
    /// take for ever.
    pub(crate) fn drop_pages_now(&self, ino: u64) {
        if let Some(notifier) = self.notifier.get() {
            let (done, wait) = channel();
            if self.queue.send((notifier.clone(), ino, Some(done))).is_ok() {
                wait.recv_timeout(PATIENCE).ok();
            }
        }
    }
}

fn run(inodes: &Receiver<Errand>) {
    for (notifier, ino, waiting) in inodes {
        // The inode may be gone, and with it its pages; len 0 is all of it.
        notifier.inval_inode(INodeNo(ino), 0, 0).ok();
        if let Some(done) = waiting {
            // It may have lost its patience.
            done.send(()).ok();
        }
    }
}
