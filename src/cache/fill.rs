//! An object on its way in: one writes it, any number read along.
//!
//! A fill is an append-only body behind a lock, and the list of readers to wake when it grows. Whoever reads gets the
//! bytes that are there at once and the others as they come; nobody polls. A reader that leaves changes nothing, a
//! writer that vanishes fails the fill, so nobody waits for ever. Knows nothing of HTTP, time or who fetches: `tests/fill.rs`
//! runs this very file under a scheduler that tries the orders in which its threads can meet.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::sync::{Arc, Mutex};

/// One object as it arrives. `H` is known before the first byte, `D` when the last one is there, `E` is why it did not come.
pub struct Fill<H, D, E> {
    // Held for look-ups and appends only, never across an await.
    state: Mutex<State<H, D, E>>,
}

struct State<H, D, E> {
    head: Option<Arc<H>>,
    /// The body's pieces, each with the number of bytes up to its end.
    pieces: Vec<(usize, Bytes)>,
    end: Option<Result<Arc<D>, E>>,
    /// Who waits for more, by reader.
    asleep: BTreeMap<u64, Waker>,
    readers: u64,
}

impl<H, D, E> State<H, D, E> {
    fn len(&self) -> usize {
        self.pieces.last().map_or(0, |(end, _)| *end)
    }

    /// The bytes from `at` to the end of the piece that they lie in.
    fn piece(&self, at: usize) -> Option<Bytes> {
        let index = self.pieces.partition_point(|(end, _)| *end <= at);
        let (end, piece) = self.pieces.get(index)?;
        Some(piece.slice(piece.len() - (end - at)..))
    }
}

impl<H, D, E: Clone> Fill<H, D, E> {
    /// What the object is, if that is known.
    pub fn head(&self) -> Option<Arc<H>> {
        self.lock().head.clone()
    }

    /// How it ended, if it has.
    pub fn end(&self) -> Option<Result<Arc<D>, E>> {
        self.lock().end.clone()
    }

    /// Bytes that are there.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = State<H, D, E>> + '_ {
        self.state.lock().expect("no panic while held")
    }

    fn change(&self, change: impl FnOnce(&mut State<H, D, E>)) {
        let asleep = {
            let mut state = self.lock();
            change(&mut state);
            std::mem::take(&mut state.asleep)
        };
        asleep.into_values().for_each(Waker::wake);
    }
}

/// The one who writes a fill.
pub struct Writer<H, D, E: Clone> {
    fill: Arc<Fill<H, D, E>>,
    lost: Option<E>,
}

impl<H, D, E: Clone> Writer<H, D, E> {
    /// The writer of an empty fill. `lost` is what readers are told when the writer vanishes.
    pub fn new(lost: E) -> Self {
        let state = State { head: None, pieces: Vec::new(), end: None, asleep: BTreeMap::new(), readers: 0 };
        Self { fill: Arc::new(Fill { state: Mutex::new(state) }), lost: Some(lost) }
    }

    pub fn fill(&self) -> &Arc<Fill<H, D, E>> {
        &self.fill
    }

    /// Tells what the object is.
    pub fn begin(&self, head: H) {
        self.fill.change(|state| state.head = Some(Arc::new(head)));
    }

    pub fn append(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.fill.change(|state| {
            let end = state.len() + bytes.len();
            state.pieces.push((end, bytes));
        });
    }

    /// Ends the fill with everything there. The pieces become one: what stays in memory is the body and nothing around it.
    pub fn complete(mut self, done: impl FnOnce(&Bytes) -> D) {
        let pieces: Vec<Bytes> = self.fill.lock().pieces.iter().map(|(_, piece)| piece.clone()).collect();
        let whole: Bytes = pieces.concat().into();
        let done = Arc::new(done(&whole));
        self.lost = None;
        self.fill.change(|state| {
            state.pieces = if whole.is_empty() { Vec::new() } else { vec![(whole.len(), whole)] };
            state.end = Some(Ok(done));
        });
    }

    /// Ends the fill without the rest. Readers keep what they have.
    pub fn fail(mut self, why: E) {
        self.lost = None;
        self.fill.change(|state| state.end = Some(Err(why)));
    }
}

impl<H, D, E: Clone> Drop for Writer<H, D, E> {
    fn drop(&mut self) {
        if let Some(lost) = self.lost.take() {
            self.fill.change(|state| state.end = Some(Err(lost)));
        }
    }
}

/// One who reads a fill, at its own pace.
pub struct Reader<H, D, E: Clone> {
    fill: Arc<Fill<H, D, E>>,
    id: u64,
    sleeps: bool,
}

impl<H, D, E: Clone> Reader<H, D, E> {
    pub fn new(fill: &Arc<Fill<H, D, E>>) -> Self {
        let mut state = fill.lock();
        let id = state.readers;
        state.readers += 1;
        drop(state);
        Self { fill: fill.clone(), id, sleeps: false }
    }

    /// What the object is.
    pub async fn head(&mut self) -> Result<Arc<H>, E> {
        poll_fn(|cx| {
            self.poll(cx, |state| match (&state.head, &state.end) {
                (Some(head), _) => Some(Ok(head.clone())),
                (None, Some(Err(why))) => Some(Err(why.clone())),
                (None, _) => None,
            })
        })
        .await
    }

    /// Waits for the end.
    pub async fn done(&mut self) -> Result<Arc<D>, E> {
        poll_fn(|cx| self.poll(cx, |state| state.end.clone())).await
    }

    /// Gives bytes from place `at` on, as many as lie together; `None` behind the last one.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>, at: usize) -> Poll<Option<Result<Bytes, E>>> {
        self.poll(cx, |state| match (state.piece(at), &state.end) {
            (Some(piece), _) => Some(Some(Ok(piece))),
            (None, Some(Ok(_))) => Some(None),
            (None, Some(Err(why))) => Some(Some(Err(why.clone()))),
            (None, None) => None,
        })
    }

    fn poll<T>(&mut self, cx: &Context<'_>, look: impl FnOnce(&State<H, D, E>) -> Option<T>) -> Poll<T> {
        let mut state = self.fill.lock();
        match look(&state) {
            Some(found) => Poll::Ready(found),
            None => {
                state.asleep.insert(self.id, cx.waker().clone());
                self.sleeps = true;
                Poll::Pending
            }
        }
    }
}

impl<H, D, E: Clone> Drop for Reader<H, D, E> {
    fn drop(&mut self) {
        if self.sleeps {
            self.fill.lock().asleep.remove(&self.id);
        }
    }
}
