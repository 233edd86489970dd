//! Walks over all that the stores hold.

use crate::{
    id::{BroadcastId, StreamId},
    line::Stores,
    store::{self, Child},
    time::UnixMs,
};

/// Broadcasts read at a time.
const PAGE: usize = 1000;

/// An object in the blob store.
pub struct Blob {
    pub name: String,
    pub bytes: u64,
    pub modified: UnixMs,
}

/// All broadcasts of all streams, oldest first.
pub async fn broadcasts(stores: &Stores) -> store::Result<Vec<(BroadcastId, StreamId)>> {
    let mut all: Vec<(BroadcastId, StreamId)> = Vec::new();
    loop {
        let page = stores.meta.all_broadcasts(all.last().map(|(id, _)| id), PAGE).await?;
        let full = page.len() >= PAGE;
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}

/// All objects under a folder, in no order.
pub async fn blobs(stores: &Stores, folder: &str) -> store::Result<Vec<Blob>> {
    let (mut open, mut all) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for child in stores.blobs.list(&folder).await? {
            match child {
                Child::Folder(name) => open.push(name),
                Child::Blob { name, bytes, modified } => all.push(Blob { name, bytes, modified }),
            }
        }
    }
    Ok(all)
}
