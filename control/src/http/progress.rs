//! A TCP stream that knows since when it could not write, so that a client
//! which asks but never reads can be told from one that is slow.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// A stream whose writes are watched by a [`Watch`].
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    watch: Watch,
}

/// What is known of the writes of one stream. Clones watch the same stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    /// When a write had to wait, if none went on since.
    stuck_since: Arc<Mutex<Option<Instant>>>,
}

impl<S> Watched<S> {
    pub fn new(stream: S) -> (Self, Watch) {
        let watch = Watch::default();
        let watched = Self {
            stream,
            watch: watch.clone(),
        };
        (watched, watch)
    }
}

impl Watch {
    /// Waits until a write has waited for this long.
    pub async fn stuck(&self, patience: Duration) {
        loop {
            let now = Instant::now();
            // A write that starts to wait right now is late after the patience.
            let late = self.since().unwrap_or(now) + patience;
            if late <= now {
                return;
            }
            sleep_until(late).await;
        }
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        let mut since = self.since();
        match written {
            Poll::Ready(_) => *since = None,
            Poll::Pending => {
                since.get_or_insert_with(Instant::now);
            }
        }
        written
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.stuck_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.watch.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.watch.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A flush of TCP never waits: it says nothing of the client.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{sleep, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn only_a_write_that_waits_is_stuck() {
        let (here, mut there) = duplex(8);
        let (mut watched, watch) = Watched::new(here);
        watched.write_all(b"12345678").await.unwrap();
        let long = Duration::from_secs(3600);
        assert!(timeout(long, watch.stuck(PATIENCE)).await.is_err());
        let begin = Instant::now();
        tokio::spawn(async move {
            let _ = watched.write_all(&[0; 1000]).await;
            std::future::pending::<()>().await;
        });
        // A byte now and then is progress.
        for _ in 0..5 {
            let step = sleep(Duration::from_secs(20));
            tokio::select! {
                () = watch.stuck(PATIENCE) => panic!("stuck after {:?}", begin.elapsed()),
                () = step => {}
            }
            there.read_u8().await.unwrap();
        }
        let begin = Instant::now();
        watch.stuck(PATIENCE).await;
        assert!((30..32).contains(&begin.elapsed().as_secs()));
    }
}
