//! Reading a request's body: bounded in size and in time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::errors::ApiError;

/// Longest that a body may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The whole body.
///
/// # Errors
/// [`ApiError::BodyTooLarge`], [`ApiError::BodyTimeout`], [`ApiError::BodyBroken`].
pub(super) async fn read(body: Body, max: usize) -> Result<Bytes, ApiError> {
    // An announced length is refused before a byte of it is read.
    if axum::body::HttpBody::size_hint(&body).lower() > max as u64 {
        return Err(ApiError::BodyTooLarge { max });
    }
    let collected = tokio::time::timeout(TIMEOUT, Limited::new(body, max).collect()).await;
    match collected {
        Err(_) => Err(ApiError::BodyTimeout { seconds: TIMEOUT.as_secs() }),
        Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => Err(ApiError::BodyTooLarge { max }),
        Ok(Err(e)) => Err(ApiError::BodyBroken { reason: e.to_string() }),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}
