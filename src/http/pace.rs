//! A socket whose reader must keep up: one that takes less than [`RATE`] while it has something to take is cut.
//!
//! What a slow reader does not take lies in memory and holds a connection. Only the time in which bytes wait for the
//! reader counts, so a player that rests between two chunks is not slow.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::time::{Timestamp, now};

/// Bytes per second that a reader must take: a quarter of the lowest bitrate that is worth watching.
pub const RATE: u64 = 4 << 10;
/// The time over which that is looked at; a phone in a tunnel comes back within it.
pub const WINDOW: Duration = Duration::from_secs(20);

/// A playlist and its headers are copied together up to so many bytes: one `send` costs less than a `writev` of two.
const GATHERED: usize = 2 << 10;

/// A stream to a reader that must keep up.
pub struct Paced<S> {
    stream: S,
    /// Since when bytes wait for the reader, and how long they did before, in this window.
    blocked: Option<Timestamp>,
    waited: Duration,
    taken: u64,
    /// Wakes a writer whose reader takes nothing at all. Boxed: most connections never need it.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, blocked: None, waited: Duration::ZERO, taken: 0, alarm: None }
    }

    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Looks at what a write came to.
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let waited = self.blocked.map_or(Duration::ZERO, |since| now() - since);
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.taken += bytes as u64;
                if self.blocked.take().is_some() {
                    self.waited += waited;
                    self.alarm = None;
                }
            }
            Poll::Ready(Err(_)) => return written,
            Poll::Pending => _ = self.blocked.get_or_insert_with(now),
        }
        let waited = self.waited + if self.blocked.is_some() { waited } else { Duration::ZERO };
        if waited >= WINDOW {
            if self.taken < RATE * WINDOW.as_secs() {
                metrics::counter!("weir_http_slow_readers_total").increment(1);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader is too slow")));
            }
            (self.waited, self.taken) = (Duration::ZERO, 0);
            self.blocked = self.blocked.map(|_| now());
        }
        if written.is_pending() {
            let left = WINDOW.saturating_sub(self.waited);
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(left)));
            if alarm.as_mut().poll(cx).is_ready() {
                // The next write looks again; there is one, because this wakes its task.
                self.alarm = None;
                cx.waker().wake_by_ref();
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = bytes.iter().map(|slice| slice.len()).sum();
        let written = if total <= GATHERED {
            let mut gathered = [0; GATHERED];
            let mut at = 0;
            for slice in bytes {
                gathered[at..at + slice.len()].copy_from_slice(slice);
                at += slice.len();
            }
            Pin::new(&mut self.stream).poll_write(cx, &gathered[..total])
        } else {
            Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
        };
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const CHUNK: usize = 64 << 10;

    /// A reader that takes so many bytes each second; gives how long the writer lived, at most two minutes.
    async fn live(each_second: usize) -> Result<(), Duration> {
        let (ours, mut theirs) = duplex(1024);
        let mut paced = Paced::new(ours);
        tokio::spawn(async move {
            let mut taken = vec![0; each_second.max(1)];
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if each_second > 0 && theirs.read_exact(&mut taken).await.is_err() {
                    return;
                }
            }
        });
        let begun = now();
        while now() - begun < Duration::from_secs(120) {
            if paced.write_all(&[0; CHUNK]).await.is_err() {
                return Err(now() - begun);
            }
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_or_too_little_is_cut_after_the_window() {
        for each_second in [0, 500, 3000] {
            let lived = live(each_second).await.expect_err("cut");
            assert!(lived >= WINDOW && lived < WINDOW * 2 + Duration::from_secs(2), "{each_second}: {lived:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_up_is_not() {
        assert_eq!(live(6000).await, Ok(()));
        // Nor who rests between two chunks.
        let (ours, mut theirs) = duplex(2 * CHUNK);
        let mut paced = Paced::new(ours);
        let mut taken = vec![0; CHUNK];
        for _ in 0..5 {
            paced.write_all(&[0; CHUNK]).await.unwrap();
            theirs.read_exact(&mut taken).await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}
