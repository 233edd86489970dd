//! Who may publish: stream keys against the store, whom a backend lets in, or anyone where the operator said so.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;

use crate::{
    auth::{self, keys::PublishKey},
    hooks::ask::{Asker, Publish, Refused},
    id::StreamId,
    ingest::{Admitted, Gate},
    line::StreamSettings,
    rtmp::{Code, Refusal, StreamKey},
    store::Meta,
};

/// One text for unknown stream and wrong key: a guesser learns nothing.
const DENIED: &str = "unknown stream or wrong key: in OBS, Settings > Stream, the stream key must be exactly the one that \
    Weir printed, like name?key=secret";
const BAD_NAME: &str = "a stream name is 1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit";

const REFUSED: &str = "you may not publish this stream here";
const UNSURE: &str = "it cannot be found out now whether you may publish; try again in a moment";

/// Keys are checked against the store.
pub struct Keys(pub Arc<dyn Meta>);

/// Any stream name may publish.
pub struct Open(pub Arc<dyn Meta>);

/// A backend lets in whom it likes, by whatever the encoder sends as its key.
pub struct Asked {
    pub asker: Arc<Asker>,
    pub meta: Arc<dyn Meta>,
}

#[async_trait]
impl Gate for Keys {
    async fn admit(&self, stream_key: &StreamKey, _: IpAddr) -> Result<Admitted, Refusal> {
        let key = PublishKey::parse(stream_key.expose());
        let id: StreamId = key.stream.parse().map_err(|_| Refusal::new(Code::BadName, BAD_NAME))?;
        // No key at all is a wrong key, at the same cost.
        let secret = key.key.unwrap_or_else(|| auth::Secret::new(""));
        let row = self
            .0
            .stream(&id)
            .await
            .map_err(|_| Refusal::new(Code::Rejected, "the server cannot check keys now; try again"))?;
        // The same work for an unknown stream as for a wrong key.
        let good = match &row {
            Some(row) => auth::keys::verify(&row.key_hash, &secret),
            None => auth::keys::verify_absent(&secret),
        };
        match row.filter(|_| good) {
            Some(row) => Ok(Admitted { stream: id, settings: settings(row.settings) }),
            None => Err(Refusal::new(Code::Denied, DENIED)),
        }
    }
}

#[async_trait]
impl Gate for Open {
    async fn admit(&self, stream_key: &StreamKey, _: IpAddr) -> Result<Admitted, Refusal> {
        let id: StreamId =
            PublishKey::parse(stream_key.expose()).stream.parse().map_err(|_| Refusal::new(Code::BadName, BAD_NAME))?;
        // A store that is away does not matter where no key is asked for.
        let row = self.0.stream(&id).await.ok().flatten();
        Ok(Admitted { settings: row.map(|row| settings(row.settings)).unwrap_or_default(), stream: id })
    }
}

#[async_trait]
impl Gate for Asked {
    async fn admit(&self, stream_key: &StreamKey, peer: IpAddr) -> Result<Admitted, Refusal> {
        let name = PublishKey::parse(stream_key.expose()).stream.parse::<StreamId>().ok();
        let named = match self.asker.publish(name.as_ref(), stream_key.expose(), peer).await {
            Publish::Admitted(named) => named,
            Publish::Refused(Refused { words, .. }) => {
                return Err(Refusal::new(Code::Denied, words.as_deref().unwrap_or(REFUSED)));
            }
            Publish::Unsure => return Err(Refusal::new(Code::Rejected, UNSURE)),
        };
        let id = named.or(name).ok_or_else(|| Refusal::new(Code::BadName, BAD_NAME))?;
        let row = self.meta.stream(&id).await.ok().flatten();
        Ok(Admitted { settings: row.map(|row| settings(row.settings)).unwrap_or_default(), stream: id })
    }
}

/// Settings are checked when they are set; older forms that no longer parse fall back to the node's.
fn settings(value: serde_json::Value) -> StreamSettings {
    serde_json::from_value(value).unwrap_or_default()
}
