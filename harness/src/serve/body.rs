//! A request's body, up to limits of size and time.
//!
//! Invariant: the bytes of all bodies that are being read, together, stay below a limit, so that
//! many large bodies at once are refused before memory runs out. Nothing is parsed here.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use backends::{Clock, Nanos};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// How long a client may take to send a body.
const PATIENCE: Nanos = Nanos(30_000_000_000);
/// Bodies of the largest size that may be in memory at once.
const AT_ONCE: usize = 64;
/// What is still read of a body that is too large, as a multiple of the limit, so that a client
/// which writes before it reads gets to see the answer.
const SWALLOWED: usize = 16;

/// What bodies may be like.
#[derive(Debug)]
pub(super) struct BodyLimits {
    max_bytes: usize,
    /// Bytes that all bodies together may still take.
    room: Arc<Semaphore>,
    clock: Clock,
}

impl BodyLimits {
    pub(super) fn new(max_bytes: usize, clock: Clock) -> Self {
        let room = max_bytes
            .saturating_mul(AT_ONCE)
            .min(Semaphore::MAX_PERMITS);
        Self {
            max_bytes,
            room: Arc::new(Semaphore::new(room)),
            clock,
        }
    }

    /// Reads a body and gives it to `parse`; its bytes count until that is done.
    pub(super) async fn read<T>(
        &self,
        body: Body,
        parse: impl FnOnce(&[u8]) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let deadline = self.clock.now().plus(PATIENCE);
        let read = self.clock.timeout(deadline, self.collect(body)).await;
        let (bytes, _room) = read.map_err(|_| {
            let message = "the body did not come within 30 s";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
        })??;
        parse(&bytes)
    }

    async fn collect(
        &self,
        mut body: Body,
    ) -> Result<(Vec<u8>, Vec<OwnedSemaphorePermit>), ApiError> {
        let (mut bytes, mut room) = (Vec::new(), Vec::new());
        if body.size_hint().lower() > self.max_bytes as u64 {
            return Err(self.too_large(body).await);
        }
        while let Some(part) = next_data(&mut body).await? {
            if bytes.len() + part.len() > self.max_bytes {
                drop((bytes, room));
                return Err(self.too_large(body).await);
            }
            let taken = Arc::clone(&self.room).try_acquire_many_owned(part.len() as u32);
            room.push(taken.map_err(|_| {
                let message = "too many large bodies are being read at once";
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
            })?);
            bytes.extend_from_slice(&part);
        }
        Ok((bytes, room))
    }

    /// Reads on for a while, keeping nothing.
    async fn too_large(&self, mut body: Body) -> ApiError {
        let mut left = self.max_bytes.saturating_mul(SWALLOWED);
        while let Ok(Some(part)) = next_data(&mut body).await {
            let Some(rest) = left.checked_sub(part.len()) else {
                break;
            };
            left = rest;
        }
        let limit = self.max_bytes;
        let message = format!("the body is too large; accepted are up to {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}

async fn next_data(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let message = format!("the body broke off: {error}");
            ApiError::new(StatusCode::BAD_REQUEST, message)
        })?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(limit: usize, body: &'static str) -> Result<String, ApiError> {
        let clock = Clock::simulated();
        let limits = BodyLimits::new(limit, clock.clone());
        let text = |bytes: &[u8]| Ok(String::from_utf8_lossy(bytes).into_owned());
        let result = clock.block_on(limits.read(Body::from(body), text));
        assert_eq!(limits.room.available_permits(), limit * AT_ONCE);
        result
    }

    #[test]
    fn a_body_is_read_up_to_its_limit() {
        assert_eq!(read(5, "12345"), Ok("12345".into()));
        assert_eq!(read(5, ""), Ok(String::new()));
        let error = read(5, "123456").expect_err("too large");
        assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(error.message.contains("up to 5 bytes"), "{}", error.message);
    }

    #[test]
    fn many_bodies_at_once_are_refused_before_memory_runs_out() {
        let clock = Clock::simulated();
        let limits = BodyLimits::new(4, clock.clone());
        let all = Arc::clone(&limits.room).try_acquire_many_owned(4 * AT_ONCE as u32 - 3);
        let refused = clock.block_on(limits.read(Body::from("1234"), |_| Ok(())));
        let status = refused.expect_err("no room").status;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        drop(all);
        assert_eq!(
            clock.block_on(limits.read(Body::from("1234"), |_| Ok(()))),
            Ok(())
        );
    }
}
