//! Objects: written at once or later, read once for all who ask.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Entry, Remote, spool};
use crate::{
    media::Pieces,
    store::{Blobs, Child, Result, blobs::legal},
    time::unix_now,
};

/// The bytes' side of a [`Remote`].
pub struct RemoteBlobs(pub Arc<Remote>);

#[async_trait]
impl Blobs for RemoteBlobs {
    async fn put(&self, name: &str, bytes: Pieces) -> Result<()> {
        let remote = &self.0;
        let entry = Entry::Blob { name: legal(name)?.to_owned(), len: bytes.len() as u64 };
        remote.kept.remove(name);
        remote.write(entry, bytes.clone(), remote.blobs.put(name, bytes)).await
    }

    async fn get(&self, name: &str) -> Result<Bytes> {
        let remote = &self.0;
        if let Some(bytes) = remote.waits(name, None).await? {
            return Ok(bytes);
        }
        if let Some(bytes) = remote.kept.get(name) {
            return Ok(bytes);
        }
        let (remote, owned) = (remote.clone(), name.to_owned());
        let read = move || async move {
            count_read();
            let bytes = remote.blobs.get(&owned).await?;
            // Before the flight ends: whoever comes then finds it here.
            remote.kept.insert(owned, bytes.clone());
            Ok(bytes)
        };
        self.0.objects.join(name.to_owned(), read).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let remote = &self.0;
        if let Some(bytes) = remote.waits(name, Some(range.clone())).await? {
            return Ok(bytes);
        }
        if let Some(bytes) = remote.kept.get(name) {
            return Ok(spool::part(&bytes, &range));
        }
        let (blobs, owned) = (remote.blobs.clone(), name.to_owned());
        let key = format!("{name}#{}-{}", range.start, range.end);
        let read = move || async move {
            count_read();
            blobs.get_range(&owned, range).await
        };
        remote.objects.join(key, read).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let remote = &self.0;
        remote.forget_waiting(|entry| matches!(entry, Entry::Blob { name: waiting, .. } if waiting == name)).await?;
        remote.kept.remove(name);
        remote.blobs.delete(name).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<Child>> {
        let waiting = self.0.spool().blobs();
        let mut listed = self.0.blobs.list(folder).await?;
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        for (name, bytes) in waiting {
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            let child = match rest.split_once('/') {
                Some((inner, _)) => Child::Folder(format!("{prefix}{inner}")),
                None => Child::Blob { name, bytes, modified: unix_now() },
            };
            let name = |child: &Child| match child {
                Child::Folder(name) | Child::Blob { name, .. } => name.clone(),
            };
            if listed.iter().all(|known| name(known) != name(&child)) {
                listed.push(child);
            }
        }
        Ok(listed)
    }
}

fn count_read() {
    metrics::counter!("weir_store_reads_total").increment(1);
}

impl Remote {
    /// The bytes of an object that waits in the spool; nothing where it does not, or does no more.
    async fn waits(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Bytes>> {
        let found = {
            let spool = self.spool();
            spool.blob(name).map(|number| (spool.files(), number))
        };
        let Some((files, number)) = found else { return Ok(None) };
        match spool::read(&files, number, range).await {
            Ok(bytes) => Ok(Some(bytes)),
            // It was written out meanwhile.
            Err(crate::store::Error::NotFound) => Ok(None),
            Err(why) => Err(why),
        }
    }
}
