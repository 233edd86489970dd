use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::{
    cluster::{
        feed::{Follow, Places},
        names::Names,
        twins::Made,
    },
    id::Rendition,
    package::Parts,
    time::UnixMs,
};

/// Nodes of two releases stand side by side during an upgrade. What changes here in a way that the release before does not
/// understand needs another version of the feed ([`feed::CONTENT_TYPE`]).
#[test]
fn words_are_as_the_release_before_says_them() {
    let parts = Some(Parts { ticks: 30_000, target_ms: 334 });
    let plan = Plan { started: UnixMs(1_700_000_000_000), parts, ended_at: Some(-7) };
    let settings = StreamSettings { push: true, standby: Some(super::super::Standby::Warm), ..Default::default() };
    let follow = Follow { order: 7, settings, chunk_ms: 2000, gateway: "one".into() };
    let places = Places { gateway: "one".into(), standbys: vec!["two".into()] };
    let mut names = Names::default();
    names.list(30, 2);
    same(
        [
            Control::Follow(follow),
            Control::Plan(plan),
            Control::Lead { turn: 2, listed: Some(41), names },
            Control::Begin(BeginWord { reason: Break::TimeJump, next: Some((42, 90_000)) }),
            Control::Warning(Warning::LongKeyframeInterval { chunk_ms: 2000 }),
            Control::Places(places),
            Control::Leave,
            Control::End,
            Control::Beat,
        ],
        &[
            r#"{"follow":{"order":7,"settings":{"push":true,"standby":"warm"},"chunk_ms":2000,"gateway":"one"}}"#,
            r#"{"plan":{"started":1700000000000,"parts":{"ticks":30000,"target_ms":334},"ended_at":-7}}"#,
            r#"{"lead":{"turn":2,"listed":41,"names":[[30,2]]}}"#,
            r#"{"begin":{"reason":"time_jump","next":[42,90000]}}"#,
            r#"{"warning":{"long_keyframe_interval":{"chunk_ms":2000}}}"#,
            r#"{"places":{"gateway":"one","standbys":["two"]}}"#,
            r#""leave""#,
            r#""end""#,
            r#""beat""#,
        ],
    );
    let epoch = Epoch {
        broadcast: "01hb2d1kq0".parse().unwrap(),
        number: 3,
        k: 42,
        at: 90_000,
        wall: UnixMs(1_700_000_000_500),
        discontinuity: true,
    };
    let made = BTreeMap::from([(Rendition::audio(), Made { k: 41, sum: 9 })]);
    let encoded = BTreeMap::from([("480p".parse().unwrap(), 90_000)]);
    let line = Standing { leads: true, k: Some(41), epoch: 2, newest: 7, made, encoded };
    same(
        [
            Told::Standing { line, draining: false },
            Told::Led,
            Told::Begun(BegunWord { epoch, encode: true, plan }),
            Told::Refused { why: "no".into() },
            Told::Fenced { by: 8 },
        ],
        &[
            r#"{"standing":{"line":{"leads":true,"k":41,"epoch":2,"newest":7,"made":{"audio":{"k":41,"sum":9}},"encoded":{"480p":90000}},"draining":false}}"#,
            r#""led""#,
            r#"{"begun":{"epoch":{"broadcast":"01hb2d1kq0","number":3,"k":42,"at":90000,"wall":1700000000500,"discontinuity":true},"encode":true,"plan":{"started":1700000000000,"parts":{"ticks":30000,"target_ms":334},"ended_at":-7}}}"#,
            r#"{"refused":{"why":"no"}}"#,
            r#"{"fenced":{"by":8}}"#,
        ],
    );
}

fn same<T: Serialize + DeserializeOwned>(words: impl IntoIterator<Item = T>, texts: &[&str]) {
    let said: Vec<_> = words.into_iter().map(|word| serde_json::to_string(&word).unwrap()).collect();
    assert_eq!(said, texts);
    for text in texts {
        let read: T = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), *text);
    }
}

#[test]
fn settings_of_a_newer_release_are_kept_and_a_newer_ladder_is_not_made_up() {
    let newer = r#"{"push":true,"captions":"auto"}"#;
    let settings: StreamSettings = serde_json::from_str(newer).unwrap();
    assert!(settings.push);
    assert_eq!(serde_json::to_string(&settings).unwrap(), newer);
    // What a rung is to be like cannot be passed over: two nodes would make different chunks of one name.
    let ladder = r#"{"ladder":[{"height":720,"bitrate_kbps":3000,"codec":"hevc"}]}"#;
    let why = serde_json::from_str::<StreamSettings>(ladder).unwrap_err().to_string();
    assert!(why.contains("codec"), "{why}");
}
