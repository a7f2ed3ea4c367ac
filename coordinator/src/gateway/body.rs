//! Reading a request's body: bounded in size and in time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::errors::ApiError;

/// Longest that a body may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of a body that is refused which are read all the same, so that a client that is still sending sees the
/// answer and not a broken connection.
const DISCARDED_MAX: usize = 64 << 20;
/// Longest that this may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// The whole body.
///
/// # Errors
/// [`ApiError::BodyTooLarge`], [`ApiError::BodyTimeout`], [`ApiError::BodyBroken`].
pub(super) async fn read(mut body: Body, max: usize) -> Result<Bytes, ApiError> {
    // An announced length is refused before a byte of it is kept.
    if axum::body::HttpBody::size_hint(&body).lower() > max as u64 {
        discard(body).await;
        return Err(ApiError::BodyTooLarge { max });
    }
    let collected = tokio::time::timeout(TIMEOUT, Limited::new(&mut body, max).collect()).await;
    match collected {
        Err(_) => Err(ApiError::BodyTimeout { seconds: TIMEOUT.as_secs() }),
        Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => {
            discard(body).await;
            Err(ApiError::BodyTooLarge { max })
        }
        Ok(Err(e)) => Err(ApiError::BodyBroken { reason: e.to_string() }),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}

/// Reads a body that nobody wants, within bounds.
pub(super) async fn discard(mut body: Body) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARDED_MAX {
                break;
            }
        }
    };
    // Past the time the client has to bear with a broken connection.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, read).await;
}
