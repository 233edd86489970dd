//! Drives the counting of viewers: once a second, to the other nodes and to the store; and over a restart.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    audience::{
        Subject,
        share::{TheirCrowd, Told},
        tell::Teller,
    },
    hooks::{Event, Kind},
    http::App,
    id::StreamId,
    store::{AudienceRow, Error},
    time::{UnixMs, now, unix_now},
};

const EVERY: Duration = Duration::from_secs(1);
/// Rows that are stored together.
const LOT: usize = 500;
/// After the store did not take some.
const AGAIN: Duration = Duration::from_secs(5);
/// When the node stops, the last rows have so long.
const LAST: Duration = Duration::from_secs(1);
/// Who watched when this process stopped, for the next one.
const SAVED: &str = "viewers.json";
/// What was saved longer ago tells of nobody who is still there.
const SAVED_MAX: Duration = Duration::from_secs(75);

#[derive(Serialize, Deserialize)]
struct Saved {
    at: UnixMs,
    crowds: Vec<TheirCrowd>,
}

/// Counts until `stop`.
pub async fn run(app: Arc<App>, mut teller: Option<Teller>, stop: CancellationToken) {
    let storing = tokio::spawn(store(app.clone(), stop.clone()));
    let mut beat = interval(EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(beat.tick()).await.is_some() {
        let rows = app.viewers.audience.tick(now(), unix_now(), &*app).await;
        app.counted.add(rows);
        tell_peaks(&app);
        if let Some(teller) = &mut teller {
            teller.tell((!app.is_origin).then_some(&app.counted)).await;
        }
    }
    let _ = storing.await;
}

/// Tells webhooks of broadcasts that more watch than before: the node that makes them.
fn tell_peaks(app: &App) {
    if !app.hooks.is_on() {
        return;
    }
    for crowd in app.viewers.audience.table.crowds() {
        let Subject { stream, broadcast, live } = &crowd.subject;
        let is_made_here = *live && app.lines.live(stream).is_some_and(|live| live.broadcast == *broadcast);
        if let Some(step) = is_made_here.then(|| crowd.step()).flatten() {
            let event = Event::of(Kind::ViewerPeak, unix_now(), stream.clone(), broadcast.clone());
            app.hooks.tell(event.detailed(&step.to_string()).with("passed", step).with("viewers", crowd.viewers()));
        }
    }
}

/// Stores what was counted. An edge has its upstream do it.
async fn store(app: Arc<App>, stop: CancellationToken) {
    let mut pause = EVERY;
    let mut failing = false;
    while app.is_origin && stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = EVERY;
        if let Err(why) = store_some(&app).await {
            pause = AGAIN;
            if !std::mem::replace(&mut failing, true) {
                warn!(%why, "how many watched is not stored now; it is tried again");
            }
        } else {
            failing = false;
        }
    }
}

async fn store_some(app: &App) -> Result<(), Error> {
    loop {
        let rows = app.counted.take(LOT);
        if rows.is_empty() {
            return Ok(());
        }
        let mut by_stream: BTreeMap<StreamId, Vec<AudienceRow>> = BTreeMap::new();
        for (stream, row) in rows {
            by_stream.entry(stream).or_default().push(row);
        }
        while let Some((stream, rows)) = by_stream.pop_first() {
            match app.meta.put_audience(&stream, rows.clone()).await {
                Ok(()) | Err(Error::Later(_)) => {}
                Err(why) => {
                    let left = by_stream.into_iter().chain([(stream, rows)]);
                    app.counted
                        .add(left.flat_map(|(stream, rows)| rows.into_iter().map(move |row| (stream.clone(), row))));
                    return Err(why);
                }
            }
        }
    }
}

/// Takes up who watched when the process before this one stopped, if that was just now.
pub fn restore(app: &App, dir: &Path) {
    let path = dir.join(SAVED);
    let Ok(text) = std::fs::read(&path) else { return };
    let _ = std::fs::remove_file(&path);
    match serde_json::from_slice::<Saved>(&text) {
        Ok(saved) if unix_now().since(saved.at) < SAVED_MAX => {
            let node = app.viewers.audience.node().to_owned();
            app.viewers.audience.take(now(), &Told { node, crowds: saved.crowds, ..Told::default() });
        }
        Ok(_) => {}
        Err(why) => warn!(%why, "who watched before cannot be read"),
    }
}

/// Writes the last rows, and who watches now.
pub async fn close(app: &App, dir: &Path) {
    app.counted.add(app.viewers.audience.last_rows(unix_now()));
    if app.is_origin && timeout(LAST, store_some(app)).await.is_err() {
        warn!("the last minute's viewers are not stored: the store is silent");
    }
    let crowds = app.viewers.audience.saved(now()).into_iter().flatten().collect();
    let text = serde_json::to_vec(&Saved { at: unix_now(), crowds }).expect("plain data");
    let (path, new) = (dir.join(SAVED), dir.join(format!("{SAVED}.new")));
    if let Err(why) = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path)) {
        warn!(%why, "who watches is not saved: they are counted anew");
    }
}
