//! Who asks: a viewer, with a ticket or none, or whoever shows a stream's key or the admin token.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    App,
    problem::Problem,
    viewer::{Peer, Viewer},
};
use crate::{
    auth::{self, Secret, keys::PublishKey},
    id::{BroadcastId, StreamId},
};

/// Who asks, as the header `Authorization` proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = AccessRole)]
pub(super) enum Role {
    Viewer,
    /// Has the stream's key.
    Owner,
    Admin,
}

/// A request's proof of who asks, before it is known for which stream.
pub(super) struct Asker {
    viewer: Viewer,
    given: Option<String>,
}

impl FromRequestParts<Arc<App>> for Asker {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let given = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.map(str::to_owned);
        Ok(Self { viewer: Viewer::from_request_parts(parts, app).await?, given })
    }
}

impl Asker {
    /// Whoever shows this, the value of an `Authorization`, to whichever node.
    pub(super) fn with(given: Option<&str>) -> Self {
        Self { viewer: Viewer::new(None, Peer::Public(IpAddr::from([0, 0, 0, 0]))), given: given.map(str::to_owned) }
    }

    /// Who asks, for this stream. A key or token that is given must be right.
    pub(super) async fn role(&self, app: &App, stream: &StreamId) -> Result<Role, Problem> {
        let Some(given) = &self.given else { return Ok(Role::Viewer) };
        if auth::admin::verify(&app.admin, Some(given)) {
            return Ok(Role::Admin);
        }
        // The key as it stands in OBS, or the secret alone.
        let text = given.strip_prefix("Bearer ").unwrap_or_default();
        let key = PublishKey::parse(text).key.unwrap_or_else(|| Secret::new(text.trim()));
        let is_owner = match app.meta.stream(stream).await? {
            Some(row) => auth::keys::verify(&row.key_hash, &key),
            None => auth::keys::verify_absent(&key),
        };
        let wrong = || Problem::new(StatusCode::UNAUTHORIZED, "this is neither the stream's key nor the admin token");
        is_owner.then_some(Role::Owner).ok_or_else(wrong)
    }

    /// The same, whose header proves something else.
    pub(super) fn without_key(self) -> Self {
        Self { given: None, ..self }
    }

    /// Where the request came from.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.viewer.address()
    }

    /// The one broadcast that the asker's ticket is for, where it is for one.
    pub(super) fn only(&self, app: &App) -> Option<BroadcastId> {
        self.viewer.only(app)
    }

    /// Whether the asker holds a ticket for this stream.
    pub(super) fn holds_ticket(&self, app: &App, stream: &StreamId) -> bool {
        self.viewer.holds_ticket(app, stream)
    }

    /// Lets in who may watch.
    pub(super) async fn may_watch(
        &self,
        app: &App,
        stream: &StreamId,
        broadcast: Option<&BroadcastId>,
    ) -> Result<Role, Problem> {
        let role = self.role(app, stream).await?;
        if role == Role::Viewer {
            self.viewer.admit(app, stream, broadcast, false).await?;
        }
        Ok(role)
    }

    /// Leaves out what the asker's ticket is not for.
    pub(super) fn may_see(&self, app: &App, role: Role) -> impl Fn(&BroadcastId) -> bool + use<> {
        let only = if role == Role::Viewer { self.viewer.only(app) } else { None };
        move |broadcast| only.as_ref().is_none_or(|only| only == broadcast)
    }

    /// Lets in whoever the stream belongs to.
    pub(super) async fn must_own(&self, app: &App, stream: &StreamId) -> Result<(), Problem> {
        match self.role(app, stream).await? {
            Role::Viewer => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "this needs the stream's key or the admin token (Authorization: Bearer ...)",
            )),
            Role::Owner | Role::Admin => Ok(()),
        }
    }
}
