//! How long a peer may keep a connection waiting.
//!
//! Invariant: a write that makes no progress for the limit fails, and with it the connection, so a
//! reader that has gone to sleep does not keep its answer, or its request, for ever. Time is the
//! server's clock. How long a peer may take over its *next* request is hyper's to watch, by the
//! timer given here.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use backends::clock::Sleep;
use backends::{Clock, Nanos};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection whose writes may not stall for ever.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    clock: Clock,
    limit: Nanos,
    /// Set while a write waits.
    stalled: Option<Sleep>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, clock: Clock, limit: Nanos) -> Self {
        Self {
            stream,
            clock,
            limit,
            stalled: None,
        }
    }

    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let (clock, limit) = (&self.clock, self.limit);
        let stalled = self.stalled.get_or_insert_with(|| clock.sleep(limit));
        Pin::new(stalled).poll(context).map(|()| {
            let message = "the peer takes nothing any more";
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(context, polled)
    }
}

/// The server's clock, for hyper.
#[derive(Debug, Clone)]
pub(super) struct HyperTimer(pub(super) Clock);

struct Nap(Sleep);

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl hyper::rt::Sleep for Nap {}

impl hyper::rt::Timer for HyperTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let duration = Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        Box::pin(Nap(self.0.sleep(duration)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let now = hyper::rt::Timer::now(self);
        self.sleep(deadline.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_write_that_stalls_fails_and_one_that_moves_does_not() {
        const LIMIT: Nanos = Nanos(1_000_000_000);
        let clock = Clock::simulated();
        clock.block_on(async {
            let (near, mut far) = tokio::io::duplex(4);
            let mut near = Patient::new(near, clock.clone(), LIMIT);
            let reader = {
                let clock = clock.clone();
                tokio::spawn(async move {
                    let mut byte = [0];
                    for _ in 0..6 {
                        clock.sleep(Nanos(LIMIT.0 - 1)).await;
                        far.read_exact(&mut byte).await.expect("bytes come");
                    }
                    far
                })
            };
            near.write_all(b"0123456789").await.expect("it moves on");
            let still_there = reader.await.expect("the reader ends");
            let before = clock.now();
            let error = near.write_all(b"x").await.expect_err("nobody reads");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(clock.now().since(before), LIMIT);
            drop(still_there);
        });
    }
}
