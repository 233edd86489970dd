//! What handlers take out of a request. What cannot be read is answered with a [`Problem`], as everything else that goes wrong.

use axum::{
    extract::{
        FromRequest, FromRequestParts, Request,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, header},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Parts of the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// What stands behind the question mark.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// A body of JSON: an object, and said to be JSON. A page of another site cannot send such a thing without asking first.
pub struct Given<T>(pub T);

impl<T, S> FromRequest<S> for Given<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json")) {
            let words = "the body is JSON, which its Content-Type says: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
        }
        let body = Bytes::from_request(request, state).await?;
        // Lists of values without names are read as structures too.
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is an object: {...}"));
        }
        let given = serde_json::from_slice(&body);
        given
            .map(Self)
            .map_err(|why| Problem::new(StatusCode::BAD_REQUEST, format!("the body cannot be read as JSON: {why}")))
    }
}

impl From<PathRejection> for Problem {
    fn from(why: PathRejection) -> Self {
        // No such name can be there.
        Self::not_found(why.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(why: QueryRejection) -> Self {
        Self::new(why.status(), why.body_text())
    }
}

impl From<BytesRejection> for Problem {
    fn from(why: BytesRejection) -> Self {
        Self::new(why.status(), why.body_text())
    }
}
