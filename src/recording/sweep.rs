//! Compares bytes with rows: bytes that no row names are orphans (a crash between the two, a store that was away) and go
//! when they are old enough; rows whose bytes are missing are told.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use super::walk;
use crate::{
    id::{BroadcastId, StreamId},
    line::Stores,
    store::{self, BroadcastRow, Child, EMOTES, blob_name, init_name},
    time::UnixMs,
};

/// Younger bytes may be waiting for their row.
pub const OLD: Duration = Duration::from_secs(3600);
/// Rows read at a time.
const PAGE: usize = 2000;

/// What a look at the stores found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub blobs: u64,
    pub bytes: u64,
    /// Names of bytes without a row, old enough to go, and how many bytes those are.
    pub orphans: Vec<String>,
    pub orphan_bytes: u64,
    /// Names that rows tell of, without bytes or with fewer or more than the row says.
    pub missing: Vec<String>,
    /// Names that are none of ours.
    pub strange: Vec<String>,
}

/// Compares everything. `progress` learns how many streams are done, of how many.
pub async fn look(stores: &Stores, today: UnixMs, mut progress: impl FnMut(u64, u64)) -> store::Result<Found> {
    let mut found = Found::default();
    let broadcasts = walk::broadcasts(stores).await?;
    let mut folders = BTreeSet::new();
    for child in stores.blobs.list("").await? {
        match child {
            Child::Folder(stream) => {
                for child in stores.blobs.list(&stream).await? {
                    match child {
                        Child::Folder(name) if name.ends_with(EMOTES) => {}
                        Child::Folder(name) => _ = folders.insert(name),
                        Child::Blob { name, .. } => found.strange.push(name),
                    }
                }
            }
            Child::Blob { name, .. } => found.strange.push(name),
        }
    }
    let known: BTreeMap<String, (StreamId, BroadcastId)> =
        broadcasts.into_iter().map(|(id, stream)| (format!("{stream}/{id}"), (stream, id))).collect();
    let names: Vec<_> = known.keys().chain(folders.iter().filter(|name| !known.contains_key(*name))).cloned().collect();
    let total = names.len() as u64;
    for (done, name) in names.into_iter().enumerate() {
        progress(done as u64, total);
        let row = match known.get(&name) {
            Some((stream, id)) => stores.meta.broadcast(stream, id).await?,
            None => None,
        };
        broadcast(stores, &name, row, today, &mut found).await?;
    }
    progress(total, total);
    Ok(found)
}

/// Deletes what [`look`] found to be orphans.
pub async fn remove(stores: &Stores, found: &Found) -> store::Result<()> {
    for name in &found.orphans {
        stores.blobs.delete(name).await?;
    }
    Ok(())
}

/// Looks at one broadcast's folder.
async fn broadcast(
    stores: &Stores,
    folder: &str,
    row: Option<BroadcastRow>,
    today: UnixMs,
    found: &mut Found,
) -> store::Result<()> {
    let blobs = walk::blobs(stores, folder).await?.into_iter();
    let blobs: BTreeMap<_, _> = blobs.map(|blob| (blob.name, (blob.bytes, blob.modified))).collect();
    found.blobs += blobs.len() as u64;
    found.bytes += blobs.values().map(|(bytes, _)| bytes).sum::<u64>();
    let mut named = HashSet::new();
    let ids = folder.split_once('/').and_then(|(stream, id)| Some((stream.parse().ok()?, id.parse().ok()?)));
    let Some((stream, id)): Option<(StreamId, BroadcastId)> = ids else {
        found.strange.push(folder.to_owned());
        return Ok(());
    };
    let (stream, id) = (&stream, &id);
    // Rows may be there without their broadcast's.
    let mut from = 0;
    loop {
        let page = stores.meta.chunks(stream, id, from, PAGE).await?;
        let Some(last) = page.last().map(|row| row.k) else { break };
        for (chunk, made) in page.iter().flat_map(|chunk| chunk.renditions.iter().map(move |made| (chunk, made))) {
            let name = blob_name(stream, id, &made.rendition, chunk.k, chunk.epoch);
            if blobs.get(&name).is_none_or(|(bytes, _)| *bytes != u64::from(made.bytes)) {
                found.missing.push(name.clone());
            }
            named.insert(name);
            let init = init_name(stream, id, &made.rendition, &made.init);
            if !blobs.contains_key(&init) && named.insert(init.clone()) {
                found.missing.push(init);
            } else {
                named.insert(init);
            }
        }
        if page.len() < PAGE {
            break;
        }
        from = last + 1;
    }
    // What is running may name anything yet.
    if row.as_ref().is_some_and(|row| row.ended.is_none()) {
        return Ok(());
    }
    let old = |modified: UnixMs| today.since(modified) >= OLD;
    for (name, (bytes, modified)) in blobs {
        if named.contains(&name) || !old(modified) {
            continue;
        }
        // A row that cannot be read names its bytes, too.
        let numbered = name.rsplit('/').next().and_then(|file| {
            let (k, epoch) = file.strip_suffix(".m4s")?.split_once('.')?;
            Some((k.parse().ok()?, epoch.parse().ok()?))
        });
        let is_named = match numbered {
            Some((k, epoch)) => stores.meta.has_chunk(stream, id, k, epoch).await?,
            // Init segments go with the last chunk.
            None => !named.is_empty(),
        };
        if !is_named {
            found.orphan_bytes += bytes;
            found.orphans.push(name);
        }
    }
    Ok(())
}
