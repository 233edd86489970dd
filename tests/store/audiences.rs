//! The contract of `store::Meta` for audiences.

use std::sync::Arc;

use weir::{
    id::BroadcastId,
    store::{AudienceRow, AudienceSpan, Meta},
    time::UnixMs,
};

use super::{fresh, show};

const MINUTE: i64 = 60_000;
const BEGIN: i64 = 1_770_000_000_000 / MINUTE * MINUTE;

fn row(span: AudienceSpan, minute: i64, broadcast: &BroadcastId, part: &str, made: i64) -> AudienceRow {
    let (at, body) = (UnixMs(BEGIN + minute * MINUTE), format!(r#"{{"joins":{made},"größe":"🎉"}}"#));
    AudienceRow { span, at, broadcast: broadcast.clone(), part: part.into(), made: UnixMs(BEGIN + made), body }
}

pub async fn audiences_are_written_again_and_read_by_time(meta: Arc<impl Meta>) {
    use AudienceSpan::{Hour, Mark, Minute, Whole};
    let (stream, other) = (fresh("crowd"), fresh("crowd"));
    let (first, second) = (show("01first"), show("01second"));
    // Two processes count three days; each minute is written twice.
    let minutes: Vec<_> = (0..3 * 1440).step_by(97).collect();
    for made in [1, 2] {
        for lot in minutes.chunks(20) {
            let rows = lot.iter().flat_map(|at| ["a.1", "b.1"].map(|part| row(Minute, *at, &first, part, made)));
            meta.put_audience(&stream, rows.collect()).await.unwrap();
        }
    }
    let rest = vec![
        row(Hour, 60, &first, "a.1", 1),
        row(Mark, 61, &first, "x", 1),
        row(Whole, 0, &first, "a.1", 7),
        row(Whole, 0, &first, "b.1", 1),
        row(Whole, 0, &second, "a.1", 1),
    ];
    meta.put_audience(&stream, rest).await.unwrap();
    meta.put_audience(&other, vec![row(Minute, 0, &first, "a.1", 1)]).await.unwrap();

    let moment = |minute: i64| UnixMs(BEGIN + minute * MINUTE);
    let read =
        async |span, from, to, limit| meta.audience(&stream, span, (moment(from), moment(to)), limit).await.unwrap();
    let want = |from: i64, to: i64| -> Vec<_> {
        let within = minutes.iter().filter(|at| (from..to).contains(*at));
        within.flat_map(|at| ["a.1", "b.1"].map(|part| row(Minute, *at, &first, part, 2))).collect()
    };
    assert_eq!(read(Minute, 0, 5000, 10_000).await, want(0, 5000));
    assert_eq!(read(Minute, 97, 194, 10_000).await, want(97, 194));
    assert_eq!(read(Minute, 98, 4200, 7).await, want(98, 4200)[..7]);
    assert_eq!(read(Minute, 9000, 9001, 10).await, []);
    assert_eq!(read(Hour, 0, 5000, 10).await, [row(Hour, 60, &first, "a.1", 1)]);
    assert_eq!(read(Mark, 0, 5000, 10).await, [row(Mark, 61, &first, "x", 1)]);
    let mut whole = meta.audience_of(&stream, &first).await.unwrap();
    whole.sort_by(|a, b| a.part.cmp(&b.part));
    assert_eq!(whole, [row(Whole, 0, &first, "a.1", 7), row(Whole, 0, &first, "b.1", 1)]);
    assert_eq!(meta.audience_of(&stream, &second).await.unwrap().len(), 1);
    assert_eq!(meta.audience_of(&other, &first).await.unwrap(), []);
}
