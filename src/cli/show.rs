//! The node's JSON answers as text for people. Pure.
//!
//! Fields that are known come first and in a fixed order; any other is printed too, so that a newer node's answer loses
//! nothing.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Columns and fields that a person looks for first.
const ORDER: [&str; 14] = [
    "id",
    "state",
    "mode",
    "started",
    "renditions",
    "viewers",
    "bitrate_kbps",
    "uptime_s",
    "created",
    "server",
    "key",
    "watch",
    "warnings",
    "reasons",
];

/// Renders the answer to a new stream or a new key.
pub fn created(answer: &Value) -> String {
    let mut text = String::new();
    for (field, label) in [("id", "stream"), ("server", "server"), ("key", "stream key"), ("watch", "watch")] {
        if let Some(value) = answer.get(field) {
            _ = writeln!(text, "{label:<11} {}", cell(value));
        }
    }
    text.push_str("The key is not shown again. In OBS: Settings, Stream, Service \"Custom...\".\n");
    text
}

/// Renders the answer to a new ticket.
pub fn ticket(answer: &Value) -> String {
    let mut text = String::new();
    for field in ["id", "expires", "watch", "playlist"] {
        if let Some(value) = answer.get(field) {
            _ = writeln!(text, "{field:<9} {}", cell(value));
        }
    }
    text.push_str("Whoever has the address can watch: hand it out over a safe channel.\n");
    text
}

/// Renders the list of keys that sign tickets.
pub fn ticket_keys(answer: &Value) -> String {
    match answer["keys"].as_array().map(Vec::as_slice) {
        None | Some([]) => "no keys; the first `weir ticket create` makes one\n".into(),
        Some(keys) => table(keys),
    }
}

/// Renders the list of streams.
pub fn list(answer: &Value) -> String {
    match answer["streams"].as_array().map(Vec::as_slice) {
        None | Some([]) => "no streams; `weir stream create NAME` makes one\n".into(),
        Some(streams) => table(streams),
    }
}

/// Renders the recordings of a stream.
pub fn recordings(answer: &Value) -> String {
    let shown = ["id", "state", "started", "duration_s", "bytes", "title"];
    let mut text = match chosen(&answer["broadcasts"], &shown) {
        rows if rows.is_empty() => return "no recordings\n".into(),
        rows => table(&rows),
    };
    if let Some(next) = answer["next"].as_str() {
        _ = writeln!(text, "there are older ones: --before {next}");
    }
    text
}

/// Renders the jobs of a node.
pub fn jobs(answer: &Value) -> String {
    match chosen(&answer["jobs"], &["id", "kind", "state", "done", "total", "subject", "text"]) {
        rows if rows.is_empty() => "no jobs\n".into(),
        rows => table(&rows),
    }
}

/// Renders who watches: now, and all in all.
pub fn audience(answer: &Value) -> String {
    let shown = ["stream", "broadcast", "started", "ended"];
    let mut about: Map<String, Value> =
        shown.iter().filter_map(|name| Some(((*name).to_owned(), answer.get(*name)?.clone()))).collect();
    for (part, prefix) in [("now", "now: "), ("total", ""), ("recorded", "recording: ")] {
        for (name, value) in answer[part].as_object().into_iter().flatten().filter(|(name, _)| *name != "at") {
            about.insert(format!("{prefix}{name}"), value.clone());
        }
    }
    fields(&Value::Object(about))
}

/// Renders the targets of webhooks, and what they answered to a test.
pub fn webhooks(answer: &Value) -> String {
    match answer["targets"].as_array().map(Vec::as_slice) {
        None | Some([]) => "no targets; `webhooks.targets` of the configuration names them\n".into(),
        Some(targets) => table(targets),
    }
}

/// Renders what could not be delivered.
pub fn dead(answer: &Value) -> String {
    match chosen(&answer["dead"], &["id", "target", "type", "told", "tries", "why"]) {
        rows if rows.is_empty() => "nothing is left over\n".into(),
        rows => table(&rows),
    }
}

/// Renders the nodes of a cluster.
pub fn nodes(answer: &Value) -> String {
    let fields = ["id", "live", "draining", "streams", "weight", "version", "rtmp", "http", "internal"];
    table(&chosen(&answer["nodes"], &fields))
}

/// Some fields of each object of a list.
fn chosen(list: &Value, fields: &[&str]) -> Vec<Value> {
    let choose = |row: &Value| fields.iter().map(|field| ((*field).to_owned(), row[*field].clone())).collect();
    list.as_array().map(|rows| rows.iter().map(choose).collect()).unwrap_or_default()
}

/// Renders one object, a field per line.
pub fn fields(answer: &Value) -> String {
    let Some(object) = answer.as_object() else { return format!("{}\n", cell(answer)) };
    let names = in_order(object.keys());
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for name in names {
        _ = writeln!(text, "{name:<width$}  {}", cell(&object[name]));
    }
    text
}

/// Renders how the node is: ready or why not, then its streams.
pub fn status(answer: &Value) -> String {
    let mut rest: Map<String, Value> = answer.as_object().cloned().unwrap_or_default();
    let mut text = String::new();
    let node = rest.remove("node").map_or("node".into(), |node| cell(&node));
    let version = rest.remove("version").map_or(String::new(), |version| format!(", version {}", cell(&version)));
    let up = rest.remove("uptime_s").and_then(|up| up.as_f64());
    let up = up.map_or(String::new(), |up| format!(", up {}", long(up as u64)));
    _ = writeln!(text, "{node}{version}{up}");
    let reasons = rest.remove("reasons").filter(|reasons| reasons.as_array().is_some_and(|list| !list.is_empty()));
    match (rest.remove("ready").and_then(|ready| ready.as_bool()), reasons) {
        (Some(true), None) => text.push_str("ready\n"),
        (Some(true), Some(reasons)) => _ = writeln!(text, "ready, but: {}", cell(&reasons)),
        (Some(false), Some(reasons)) => _ = writeln!(text, "NOT READY: {}", cell(&reasons)),
        (Some(false), None) => text.push_str("NOT READY\n"),
        (None, _) => {}
    }
    let degraded = rest.remove("degraded");
    for reason in degraded.iter().filter_map(Value::as_array).flatten() {
        _ = writeln!(text, "degraded: {}", cell(reason));
    }
    let streams = rest.remove("streams");
    if !rest.is_empty() {
        text.push_str(&fields(&Value::Object(rest)));
    }
    match streams.as_ref().and_then(Value::as_array).map(Vec::as_slice) {
        None => {}
        Some([]) => text.push_str("no stream is live\n"),
        Some(streams) => {
            text.push('\n');
            text.push_str(&table(streams));
        }
    }
    text
}

/// Renders objects as rows under upper-case headings.
fn table(rows: &[Value]) -> String {
    let all = rows.iter().filter_map(Value::as_object).flat_map(Map::keys);
    let columns = in_order(all);
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|name| name.to_uppercase()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|name| row.get(name).map_or("-".into(), cell)).collect()));
    let width = |i: usize| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Puts names in the order of [`ORDER`], the others after them by alphabet, each once.
fn in_order<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    names.sort_by_key(|name| (ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()), *name));
    names.dedup();
    names
}

/// Renders one value in one line. Control characters are replaced: a name that came from outside must not steer a
/// terminal.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".into(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(name_or_cell).collect::<Vec<_>>().join(", "),
        Value::Object(object) => {
            let fields = in_order(object.keys()).into_iter().map(|name| format!("{name} {}", cell(&object[name])));
            fields.collect::<Vec<_>>().join(", ")
        }
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// In a list, an object with a name, id or code is shown by it.
fn name_or_cell(value: &Value) -> String {
    let short = ["name", "id", "code"].iter().find_map(|field| value.get(field));
    cell(short.unwrap_or(value))
}

/// Renders seconds as `2d 3h`, `3h 4m`, `4m 5s` or `5s`.
fn long(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {s}s"),
        (0, _, _) => format!("{h}h {m}m"),
        _ => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_new_stream_shows_what_obs_needs() {
        let answer = json!({
            "id": "alice", "key": "alice?key=abc", "server": "rtmp://h:1935/live", "watch": "http://h:8080/watch/alice"
        });
        let expected = "stream      alice\nserver      rtmp://h:1935/live\nstream key  alice?key=abc\n\
                        watch       http://h:8080/watch/alice\n";
        assert!(created(&answer).starts_with(expected), "{}", created(&answer));
        let rotated = created(&json!({ "id": "alice", "key": "alice?key=def" }));
        assert!(rotated.contains("alice?key=def") && !rotated.contains("watch "), "{rotated}");
    }

    #[test]
    fn streams_are_a_table() {
        let answer = json!({ "streams": [
            { "id": "alice", "state": "live", "renditions": [{ "name": "source" }, { "name": "720p" }], "x": 1 },
            { "id": "bob", "state": "offline", "viewers": null, "warnings": [{ "code": "open_gop", "text": "long" }] },
        ]});
        let expected = "\
ID     STATE    RENDITIONS    VIEWERS  WARNINGS  X
alice  live     source, 720p  -        -         1
bob    offline  -             -        open_gop  -
";
        assert_eq!(list(&answer), expected);
        assert_eq!(list(&json!({ "streams": [] })), "no streams; `weir stream create NAME` makes one\n");
    }

    #[test]
    fn status_tells_ready_reasons_and_streams() {
        let answer = json!({
            "node": "node-1", "version": "0.1.0", "uptime_s": 3725, "ready": false, "reasons": ["disk full"],
            "degraded": ["7 writes wait in the spool"],
            "viewers": 3, "streams": [{ "id": "alice", "mode": "reencode", "viewers": 3 }],
        });
        let expected = "\
node-1, version 0.1.0, up 1h 2m
NOT READY: disk full
degraded: 7 writes wait in the spool
viewers  3

ID     MODE      VIEWERS
alice  reencode  3
";
        assert_eq!(status(&answer), expected);
        let idle = status(&json!({ "node": "n", "ready": true, "reasons": [], "streams": [] }));
        assert_eq!(idle, "n\nready\nno stream is live\n");
    }

    #[test]
    fn fields_lose_nothing_and_steer_no_terminal() {
        let text = fields(&json!({ "zeta": { "b": 1, "a": [] }, "id": "a\u{1b}[31m" }));
        assert_eq!(text, "id    a\u{fffd}[31m\nzeta  a -, b 1\n");
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h 0m"), (90_000, "1d 1h")] {
            assert_eq!(long(seconds), text);
        }
    }
}
