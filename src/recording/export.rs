//! A recording, or a clip of it, as one MP4 file, made while it is sent: what lies where is read from the chunks' heads first,
//! then their media is passed through. Memory goes with the number of frames, not with their bytes.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use tracing::warn;

use super::{Recording, Refused, jobs::Progress};
use crate::{
    id::{BroadcastId, Rendition, StreamId},
    line::Stores,
    package::{
        Extent,
        history::Place,
        progressive::{Bounds, Builder, InitInfo, Progressive, Samples, Span, Walk},
    },
    store::{self, Blobs, blob_name, init_name},
};

/// Chunks whose heads are read at the same time.
const HEADS: usize = 16;
/// Pieces of media that are read ahead of who takes them, and how long one is at most.
const AHEAD: usize = 2;
const PIECE: u64 = 1 << 20;

/// One file. Never changes.
pub struct Export {
    file: Progressive,
    stream: StreamId,
    broadcast: BroadcastId,
    /// The rendition of each track.
    tracks: Vec<Rendition>,
    epochs: BTreeMap<u64, u64>,
    /// Names its bytes.
    pub tag: String,
}

impl Export {
    /// Reads what the file will hold. Chunks that cannot be read are left out, as gaps are.
    pub async fn make(
        stores: &Stores,
        recording: &Recording,
        rendition: &Rendition,
        extent: &Extent,
        progress: &Progress,
    ) -> Result<Self, Refused> {
        let audio = Rendition::audio();
        let tracks: Vec<_> = match *rendition == audio {
            true => vec![audio],
            false => vec![rendition.clone(), audio],
        };
        let cuts = tracks.iter().map(|track| recording.cut(track, extent));
        let cuts: Vec<_> = cuts.take_while(Option::is_some).flatten().collect();
        let bounds = match cuts.first().and_then(|cut| cut.bounds) {
            Some((from, to)) => Bounds::Clip { from, to },
            None => Bounds::Whole,
        };
        // By number, video before audio.
        let mut heads: Vec<(u64, usize, Place, Arc<str>)> = Vec::new();
        for (track, cut) in cuts.iter().enumerate() {
            let listed = cut.slices.iter().flat_map(|slice| slice.listed());
            let chunks = listed.filter(|(place, _)| !place.gap);
            heads.extend(chunks.map(|(place, init)| (place.k, track, place, init.into())));
        }
        heads.sort_by_key(|(k, track, ..)| (*k, *track));
        progress.set(0, heads.len() as u64);
        let inits = inits(stores, recording, &tracks, &heads).await?;
        let (stream, broadcast) = (&recording.stream, &recording.id);
        let epochs = heads.iter().map(|(k, _, place, _)| (*k, place.epoch)).collect();
        let mut builder = Builder::new(bounds);
        let read = stream::iter(heads).map(|(k, track, place, init)| {
            let name = blob_name(stream, broadcast, &tracks[track], k, place.epoch);
            let init = inits.get(&(track, init)).cloned();
            async move {
                let Some(init) = init else { return Ok((name, k, track, None)) };
                let samples = head(&*stores.blobs, &name, &init, place.size.bytes.into()).await?;
                Ok::<_, store::Error>((name, k, track, samples.map(|samples| (init, samples))))
            }
        });
        let mut read = read.buffered(HEADS);
        while let Some((name, k, track, samples)) = read.try_next().await? {
            progress.add(1);
            let Some((init, samples)) = samples else { continue };
            if let Err(why) = builder.add(track, k, &init, samples) {
                warn!(name, %why, "a chunk is left out of a download");
            }
        }
        drop(read);
        let file = builder.finish().map_err(|_| Refused::Nothing)?;
        let mut tag = Sha256::new();
        let mut at = 0;
        while let Some(Span::Head(bytes)) = file.at(at) {
            tag.update(&bytes);
            at += bytes.len() as u64;
        }
        let tag = tag.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { file, stream: stream.clone(), broadcast: broadcast.clone(), tracks, epochs, tag })
    }

    /// Length of the file, bytes.
    #[expect(clippy::len_without_is_empty, reason = "a file is never empty")]
    pub fn len(&self) -> u64 {
        self.file.len()
    }

    /// What it is of, for people.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.stream, self.broadcast, self.tracks[0])
    }

    /// What memory it takes, bytes.
    pub fn weight(&self) -> u64 {
        self.file.weight() as u64 + self.epochs.len() as u64 * 32
    }

    /// The bytes of a range of the file, in pieces.
    pub fn read(
        self: Arc<Self>,
        blobs: Arc<dyn Blobs>,
        range: Range<u64>,
    ) -> impl Stream<Item = store::Result<Bytes>> + Send + 'static {
        let export = self.clone();
        let pieces = stream::iter(std::iter::successors(self.piece(range.start, range.end), move |(_, next)| {
            export.piece(*next, range.end)
        }));
        let read = pieces.map(move |(piece, _)| {
            let (export, blobs) = (self.clone(), blobs.clone());
            async move {
                match piece {
                    Span::Head(bytes) => Ok(bytes),
                    Span::Media { track, chunk, range } => {
                        let epoch = export.epochs.get(&chunk).copied().unwrap_or_default();
                        let Export { stream, broadcast, tracks, .. } = &*export;
                        let name = blob_name(stream, broadcast, &tracks[track], chunk, epoch);
                        let len = range.end - range.start;
                        let bytes = blobs.get_range(&name, range).await?;
                        let short = || store::Error::Damaged(format!("{name} is shorter than it was"));
                        if bytes.len() as u64 == len { Ok(bytes) } else { Err(short()) }
                    }
                }
            }
        });
        read.buffered(AHEAD)
    }

    /// What lies at `at`, as far as it is one piece and not beyond `end`; and where the next piece begins.
    fn piece(&self, at: u64, end: u64) -> Option<(Span, u64)> {
        if at >= end {
            return None;
        }
        let most = (end - at).min(PIECE);
        Some(match self.file.at(at)? {
            Span::Head(mut bytes) => {
                bytes.truncate(most as usize);
                let next = at + bytes.len() as u64;
                (Span::Head(bytes), next)
            }
            Span::Media { track, chunk, range } => {
                let range = range.start..range.end.min(range.start + most);
                let next = at + (range.end - range.start);
                (Span::Media { track, chunk, range }, next)
            }
        })
    }
}

type Inits = BTreeMap<(usize, Arc<str>), Arc<InitInfo>>;

/// The init segments that chunks need.
async fn inits(
    stores: &Stores,
    recording: &Recording,
    tracks: &[Rendition],
    heads: &[(u64, usize, Place, Arc<str>)],
) -> Result<Inits, Refused> {
    let mut inits = Inits::new();
    for (_, track, _, hash) in heads {
        let key = (*track, hash.clone());
        if inits.contains_key(&key) {
            continue;
        }
        let name = init_name(&recording.stream, &recording.id, &tracks[*track], hash);
        let bytes = stores.blobs.get(&name).await?;
        let info = InitInfo::parse(&bytes).map_err(|why| store::Error::Damaged(format!("{name}: {why}")))?;
        inits.insert(key, Arc::new(info));
    }
    Ok(inits)
}

/// What a chunk holds. Nothing where it is not there, or not what it should be.
async fn head(blobs: &dyn Blobs, name: &str, init: &Arc<InitInfo>, len: u64) -> store::Result<Option<Samples>> {
    let mut walk = Walk::new(init.clone(), len);
    let left_out = |why: &dyn std::fmt::Display| {
        warn!(name, %why, "a chunk is left out of a download");
        Ok(None)
    };
    while let Some(range) = walk.wants() {
        let bytes = match blobs.get_range(name, range).await {
            // The newest of a running broadcast may not be stored yet.
            Err(why @ store::Error::NotFound) => return left_out(&why),
            bytes => bytes?,
        };
        if let Err(why) = walk.feed(&bytes) {
            return left_out(&why);
        }
    }
    match walk.done() {
        Ok(samples) => Ok(Some(samples)),
        Err(why) => left_out(&why),
    }
}
