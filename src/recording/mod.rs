//! What was live, to be watched again: replay, rewind, clips, and how long it is kept.
//!
//! [`Recording`] is the index of one broadcast, from a line's memory while it runs and from the store's rows after;
//! [`Archive`] reads and keeps those; [`Library`] is what people do with them; [`Pictures`] shows what is in them; [`Jobs`] takes
//! away in the background what was deleted or has been kept long enough. All of them are bounds of one index: nothing is copied to make a clip or a replay.

mod archive;
mod deletion;
mod export;
mod index;
mod jobs;
mod library;
mod pictures;
mod retention;
pub mod sweep;
mod walk;

use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter, sync::Cache};

/// A cache of so many bytes in one piece: one that is divided keeps nothing that is larger than a division.
fn cache<K, V, W>(items: usize, bytes: u64, weighter: W) -> Cache<K, V, W>
where
    K: Eq + std::hash::Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let options = OptionsBuilder::new().estimated_items_capacity(items).weight_capacity(bytes).shards(1).build();
    let options = options.expect("all is given");
    Cache::with_options(options, weighter, DefaultHashBuilder::default(), Default::default())
}

pub use archive::{Archive, Standing, Wanted};
pub use export::Export;
pub use index::{Cut, Recording, Track};
pub use jobs::{JobKind, JobState, JobView, Jobs, Policy};
pub use library::{Library, Moment, NewClip, Refused, Shown};
pub use pictures::{Picture, Pictures, live_left};
