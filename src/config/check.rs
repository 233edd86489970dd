//! What is impossible although it can be read: values out of range, and values that do not go together. Pure.

use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, time::Duration};

use super::{Config, Publish, Role, hooks::Fail, stores::Kind, text::print_duration};
use crate::{
    hooks::{address, sign},
    id::Rendition,
};

/// Letters of `internal.secret`; fewer can be guessed.
const SECRET_MIN: usize = 16;

/// Targets that are told what happens: each has a queue of its own.
const TARGETS_MAX: usize = 16;

/// Something impossible: the keys it is about, the first one to blame, and the words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub keys: Vec<String>,
    pub what: String,
}

impl Config {
    /// Lists everything that is impossible.
    pub(super) fn wrongs(&self) -> Vec<Wrong> {
        let mut found = Found(Vec::new());
        self.check_ranges(&mut found);
        self.check_ladder(&mut found);
        self.check_node(&mut found);
        self.check_edge(&mut found);
        self.check_stores(&mut found);
        self.check_ports(&mut found);
        self.check_hooks(&mut found);
        found.0
    }

    /// Lists what is possible but dangerous, in words for the log.
    pub fn warnings(&self) -> Vec<String> {
        let mut list = Vec::new();
        if self.auth.publish == Publish::Open && self.auth.publish_url.is_none() {
            list.push(format!(
                "auth.publish is \"open\": ANYONE who reaches {} can publish under any stream name",
                self.rtmp.listen
            ));
        }
        if !self.internal.listen.ip().is_loopback() {
            list.push(format!(
                "internal.listen is {}: only other nodes may reach it, keep it behind a firewall",
                self.internal.listen
            ));
        }
        let asks = self.auth.publish_url.is_some() || self.auth.play_url.is_some();
        if asks && self.auth.url_fail == Fail::Open {
            list.push("auth.url_fail is \"open\": while your backend does not answer ANYONE is let in".into());
        }
        list
    }

    fn check_hooks(&self, found: &mut Found) {
        let (hooks, auth) = (&self.webhooks, &self.auth);
        let second = Duration::from_secs;
        found.duration("webhooks.timeout", hooks.timeout, second(1)..=second(60));
        found.duration("webhooks.retry_for", hooks.retry_for, second(1)..=second(7 * 86_400));
        // A publisher is told something after 10 s, whatever happens.
        found.duration("auth.url_timeout", auth.url_timeout, Duration::from_millis(100)..=second(8));
        if hooks.targets.len() > TARGETS_MAX {
            let count = hooks.targets.len();
            found.add("webhooks.targets", format!("has {count} targets, at most {TARGETS_MAX} are possible"));
        }
        for (i, target) in hooks.targets.iter().enumerate() {
            let key = |field: &str| format!("webhooks.targets[{i}].{field}");
            match &target.url {
                None => found.add(key("url"), "is empty: it says who is told, such as \"https://example.com/weir\""),
                Some(url) => {
                    if let Err(why) = address::check(url, hooks.allow_private) {
                        found.add(key("url"), why.to_string());
                    }
                    if let Some(first) = hooks.targets[..i].iter().position(|other| other.url.as_ref() == Some(url)) {
                        found.add(key("url"), format!("is that of webhooks.targets[{first}], too"));
                    }
                }
            }
            match target.secret.as_ref().map(sign::Key::new) {
                None => found.add(key("secret"), "is empty: what is sent is signed with it"),
                Some(Err(why)) => found.add(key("secret"), why.to_string()),
                Some(Ok(_)) => {}
            }
        }
        let urls = [("auth.publish_url", &auth.publish_url), ("auth.play_url", &auth.play_url)];
        for (key, url) in urls.iter().filter_map(|(key, url)| Some((*key, url.as_ref()?))) {
            if let Err(why) = address::check(url, hooks.allow_private) {
                found.add(key, why.to_string());
            }
            if auth.url_secret.is_none() {
                let what = "needs auth.url_secret: what is asked there is signed with it".into();
                found.0.push(Wrong { keys: vec!["auth.url_secret".into(), key.into()], what });
            }
        }
        if let Some(Err(why)) = auth.url_secret.as_ref().map(sign::Key::new) {
            found.add("auth.url_secret", why.to_string());
        }
    }

    fn check_ranges(&self, found: &mut Found) {
        let second = Duration::from_secs;
        found.duration("live.chunk", self.live.chunk, second(1)..=second(6));
        found.duration("live.part", self.live.part, Duration::from_millis(200)..=second(1));
        found.duration("live.reconnect_window", self.live.reconnect_window, second(0)..=second(30 * 60));
        found.duration("rtmp.idle_timeout", self.rtmp.idle_timeout, second(1)..=second(10 * 60));
        found.duration("rtmp.first_media_timeout", self.rtmp.first_media_timeout, second(1)..=second(10 * 60));
        // Six chunks are three target durations behind the edge (rfc8216 6.3.3) and as much to rewind.
        found.number("live.window", self.live.window, 6..=150);
        found.number("rtmp.half_open_max", self.rtmp.half_open_max, 16..=1_000_000);
        found.number("rtmp.publishers_max", self.rtmp.publishers_max, 1..=100_000);
        found.number("http.connections_max", self.http.connections_max, 16..=10_000_000);
        found.number("http.connections_per_address", self.http.connections_per_address, 1..=10_000_000);
        found.number("http.requests_max", self.http.requests_max, 16..=10_000_000);
        let day = second(86_400);
        // Rows are kept in files of a day: a database wants few of these.
        found.duration("chat.keep", self.chat.keep, day..=day * 90);
        found.duration("audience.keep", self.audience.keep, day..=day * 3660);
        found.number("audience.sessions_max", self.audience.sessions_max, 100..=4_000_000);
        found.number("audience.sessions_per_address", self.audience.sessions_per_address, 1..=4_000_000);
        found.number("audience.reports_max", self.audience.reports_max, 100..=10_000_000);
        found.number("chat.max_sockets", self.chat.max_sockets, 1..=1_000_000);
        found.number("transcode.cpu_share", self.transcode.cpu_share, 0.05..=1.0);
        if self.data.dir.as_os_str().is_empty() {
            found.add("data.dir", "must name a folder");
        }
        if let Err(what) = check_level(&self.log.level) {
            found.add("log.level", what);
        }
    }

    fn check_ladder(&self, found: &mut Found) {
        let mut names = BTreeMap::new();
        for (i, rung) in self.ladder.iter().enumerate() {
            let key = |field: &str| format!("ladder[{i}].{field}");
            found.number(&key("height"), rung.height, 32..=4320);
            if rung.height % 2 == 1 {
                found.add(key("height"), format!("{} is odd, encoders need an even height", rung.height));
            }
            found.number(&key("bitrate_kbps"), rung.bitrate_kbps, 32..=100_000);
            if let Some(fps) = rung.fps_max {
                found.number(&key("fps_max"), fps, 1..=120);
            }
            let name = rung.title();
            if [Rendition::source(), Rendition::audio()].contains(&name) {
                found.add(key("name"), format!("\"{name}\" is taken by a rendition that always has that name"));
            }
            if let Some(first) = names.insert(name.clone(), i) {
                let what =
                    format!("two rungs are named \"{name}\": ladder[{first}] and ladder[{i}]; give one a `name`");
                let field = if rung.name.is_some() { "name" } else { "height" };
                found.0.push(Wrong { keys: vec![key(field), format!("ladder[{first}]")], what });
            }
        }
        if self.ladder.len() > 16 {
            found.add("ladder", format!("has {} rungs, at most 16 are possible", self.ladder.len()));
        }
    }

    fn check_stores(&self, found: &mut Found) {
        let store = &self.store;
        if store.kind == Kind::Scylla && store.nodes.is_empty() {
            found.add(
                "store.nodes",
                "is empty: store.kind = \"scylla\" needs contact points, such as [\"10.0.0.5:9042\"]",
            );
        }
        for node in &store.nodes {
            let port = node.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            if !port.is_some_and(|(host, port)| !host.is_empty() && port > 0) {
                found.add("store.nodes", format!("{node:?} is not host:port, such as \"10.0.0.5:9042\""));
            }
        }
        // It stands in statements, and a second one is named after it.
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins = store.keyspace.starts_with(|c: char| c.is_ascii_lowercase());
        if !begins || store.keyspace.len() > 40 || !store.keyspace.chars().all(letters) {
            let rule = "1 to 40 of a-z, 0-9 and '_', starting with a letter";
            found.add("store.keyspace", format!("{:?} is not legal: {rule}", store.keyspace));
        }
        let name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !store.datacenter.chars().all(name) {
            found.add("store.datacenter", format!("{:?} has letters that no datacenter's name has", store.datacenter));
        }
        if store.user.is_empty() && store.password.is_some() {
            found.add("store.user", "is empty, but store.password is set");
        }
        found.number("store.replicas", store.replicas, 0..=9);
        if self.blobs.key.is_empty() && self.blobs.secret.is_some() {
            found.add("blobs.key", "is empty, but blobs.secret is set");
        }
        if self.blobs.url.is_none() && self.blobs.endpoint.is_some() {
            found.add("blobs.url", "is empty, but blobs.endpoint is set: it names the bucket, such as \"s3://bucket\"");
        }
        found.number("spool.disk_mb", self.spool.disk_mb, 16..=10_000_000);
    }

    fn check_node(&self, found: &mut Found) {
        if self.node.roles.is_empty() {
            found.add("node.roles", "is empty, a node needs at least one of \"gateway\", \"origin\", \"edge\"");
        }
        let mut roles = self.node.roles.clone();
        roles.sort();
        if let Some(pair) = roles.windows(2).find(|pair| pair[0] == pair[1]) {
            found.add("node.roles", format!("names {:?} twice", format!("{:?}", pair[0]).to_lowercase()));
        }
        // A node's id becomes part of store keys, as a rendition's name does: the same rule.
        if Rendition::new(&self.node.id).is_err() {
            let rule = "1 to 32 of a-z, 0-9, '-', '_', starting with a letter or digit";
            found.add("node.id", format!("{:?} is not legal: {rule}", self.node.id));
        }
    }

    fn check_edge(&self, found: &mut Found) {
        found.number("edge.memory_mb", self.edge.memory_mb, 64..=1 << 20);
        found.number("edge.waiters_max", self.edge.waiters_max, 1..=10_000_000);
        for (i, url) in self.edge.upstream.iter().enumerate() {
            let key = format!("edge.upstream[{i}]");
            if url.scheme() != "http"
                || !url.has_host()
                || url.path() != "/"
                || url.query().is_some()
                || !url.username().is_empty()
                || url.password().is_some()
            {
                // Without what it may hold before the host: a password.
                let host = url.host_str().unwrap_or_default();
                let example = "such as \"http://10.0.0.5:8090\"";
                found.add(key, format!("the one at {host:?} is not the plain address of an internal port, {example}"));
            } else if self.edge.upstream[..i].contains(url) {
                found.add(key, format!("{url} is named twice"));
            }
        }
        let has = |role| self.node.roles.contains(&role);
        if !has(Role::Origin) && has(Role::Gateway) {
            found.add("node.roles", "\"gateway\" without \"origin\": publishers go to a node that makes chunks");
        }
        if !has(Role::Origin) && has(Role::Edge) && self.edge.upstream.is_empty() {
            let what = "is empty: a node without the role \"origin\" has nothing to show but what other nodes have";
            found.add("edge.upstream", what);
        }
        if !has(Role::Edge) && !self.edge.upstream.is_empty() {
            found.add("edge.upstream", "names nodes, but node.roles has no \"edge\"");
        }
        if self.internal.secret.is_none() && !self.internal.listen.ip().is_loopback() {
            let listen = self.internal.listen;
            let what = format!(
                "is empty, and internal.listen is {listen}: whoever reached it would see everything and publish anything"
            );
            found.add("internal.secret", what);
        }
        found.number("node.weight", self.node.weight, 0..=100);
        if self.is_clustered() && self.host().is_none() {
            let what = "is empty, and internal.listen is every address: other nodes could not tell where this one is";
            found.add("node.address", what);
        }
        let letters = |c: u8| c.is_ascii_alphanumeric() || b".-:".contains(&c);
        if !self.node.address.bytes().all(letters) {
            found.add("node.address", format!("{:?} is no name or IP address", self.node.address));
        }
        if let Some(secret) = &self.internal.secret
            && !(secret.expose().len() >= SECRET_MIN && secret.expose().bytes().all(|c| c.is_ascii_graphic()))
        {
            found
                .add("internal.secret", format!("must have at least {SECRET_MIN} letters, digits or signs, no blanks"));
        }
    }

    fn check_ports(&self, found: &mut Found) {
        let internal = self.internal.listen;
        let mut all =
            vec![("rtmp.listen", self.rtmp.listen), ("http.listen", self.http.listen), ("internal.listen", internal)];
        match (&self.https.certificate, &self.https.key) {
            (None, None) => {}
            (Some(_), Some(_)) => all.push(("https.listen", self.https.listen)),
            (Some(_), None) => found.add("https.key", "is empty: https.certificate is of no use without its key"),
            (None, Some(_)) => found.add("https.certificate", "is empty: https.key is of no use without it"),
        }
        for (i, (key, address)) in all.iter().enumerate() {
            for (earlier, other) in &all[..i] {
                if overlap(*address, *other) {
                    let what = format!("{earlier} and {key} both want port {}", address.port());
                    found.0.push(Wrong { keys: vec![key.to_string(), earlier.to_string()], what });
                }
            }
        }
    }
}

/// Tells whether two sockets cannot both be bound. Port 0 is "any free port" and never overlaps.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let meet = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && meet
}

/// A list of `LEVEL` or `TARGET=LEVEL`, separated by commas.
fn check_level(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',') {
        let (target, level) = part.split_once('=').map_or(("any", part), |(target, level)| (target, level));
        if target.is_empty() || !LEVELS.contains(&level) {
            return Err(format!(
                "{part:?} is not one of {}, nor a module and one of them, such as \"weir::rtmp=debug\"",
                LEVELS.join(", ")
            ));
        }
    }
    Ok(())
}

struct Found(Vec<Wrong>);

impl Found {
    fn add(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.0.push(Wrong { keys: vec![key.into()], what: what.into() });
    }

    fn number<T: PartialOrd + std::fmt::Display>(&mut self, key: &str, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            self.add(key, format!("{value} is out of range, {} to {} are possible", range.start(), range.end()));
        }
    }

    fn duration(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let [value, from, to] = [value, *range.start(), *range.end()].map(print_duration);
            self.add(key, format!("{value} is out of range, {from} to {to} are possible"));
        }
    }
}
