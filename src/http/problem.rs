//! Errors as `application/problem+json` (RFC 9457): a title people understand, never a stack of words.

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::tickets::Refusal,
    cache::{Failure, NoObject, Why},
    package::BadReload,
    store,
};

#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// A word for programs, where the status says too little.
    code: Option<Cow<'static, str>>,
    /// When it may be tried again.
    again: Option<Duration>,
}

/// What was wrong, as it is told (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Body<'a> {
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    status: u16,
    /// What is wrong, for people.
    detail: &'a str,
    /// The same in a word, for programs; where the status says too little.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    /// After so many milliseconds it may be tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_ms: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), code: None, again: None }
    }

    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Whether this node, or one behind it, could not do what was asked.
    pub fn is_ours(&self) -> bool {
        self.status.is_server_error()
    }

    /// With a word for programs.
    pub fn with_code(self, code: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    /// It may be tried again after this.
    pub fn again_in(self, after: Duration) -> Self {
        Self { again: Some(after), ..self }
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Missing | Refusal::Invalid | Refusal::Expired | Refusal::Early => StatusCode::UNAUTHORIZED,
            Refusal::OtherStream | Refusal::OtherAddress | Refusal::Revoked => StatusCode::FORBIDDEN,
        };
        Self::new(status, refusal.to_string()).with_code(refusal.code())
    }
}

impl From<NoObject> for Problem {
    fn from(why: NoObject) -> Self {
        match why {
            NoObject::BadReload(why) => why.into(),
            NoObject::BadClip(_) => Self::new(StatusCode::BAD_REQUEST, why.to_string()),
            NoObject::BadName(_) | NoObject::NoFile => Self::not_found(why.to_string()),
        }
    }
}

impl From<BadReload> for Problem {
    fn from(why: BadReload) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why.to_string())
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let status = match failure.why {
            Why::NotFound => StatusCode::NOT_FOUND,
            Why::Gone => StatusCode::GONE,
            Why::Refused => StatusCode::BAD_REQUEST,
            Why::Unavailable | Why::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Why::Broken => StatusCode::BAD_GATEWAY,
            Why::Late => StatusCode::GATEWAY_TIMEOUT,
        };
        // What went wrong between two nodes is for the log of one of them, not for a viewer.
        let detail = match failure.why {
            Why::Broken => "the node that has it does not answer as it should",
            _ => &failure.detail,
        };
        Self::new(status, detail)
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NotFound => Self::not_found("there is no such thing here"),
            store::Error::Exists => Self::new(StatusCode::CONFLICT, "it exists already"),
            store::Error::EpochTaken(_) | store::Error::Unavailable(_) | store::Error::Later(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer now; try again in a moment")
            }
            store::Error::Damaged(_) | store::Error::Unfit(_) | store::Error::BadName(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "what is stored under this name cannot be read")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code.as_deref(),
            retry_ms: self.again.map(|after| after.as_millis() as u64),
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // A 404 of this moment may be a playlist of the next one.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.again {
            headers.insert(header::RETRY_AFTER, (after.as_millis().div_ceil(1000) as u64).into());
        } else if self.status.is_server_error() && self.status != StatusCode::INTERNAL_SERVER_ERROR {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
