//! Merges the defaults, the file, the environment and `--set`, in this order, once, and remembers where each value
//! came from.
//!
//! Every layer is taken apart into leaves (`rtmp.listen` and its value); the last layer that names a leaf wins. A leaf is
//! then read alone, on top of the defaults, so that each bad one is reported and not only the first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, de::DeserializeOwned};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{Config, hooks::Target};
use crate::{id::Rendition, transcode::Entry};

/// Environment variables that start with `WEIR_` and are no settings, with what they are for.
pub const VARIABLES: &[(&str, &str)] = &[("WEIR_CONFIG", "the configuration file, when --config is not given")];

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of the configuration file, from 1.
    File { path: PathBuf, line: usize },
    /// An environment variable.
    Environment(String),
    /// A `--set` argument, as given.
    Set(String),
    /// Nowhere: the built-in default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            // A secret that cannot be used is still one.
            Self::Set(argument) => match argument.split_once('=').filter(|(key, _)| is_secret(key)) {
                Some((key, _)) => write!(f, "--set {key}=..."),
                None => write!(f, "--set {argument}"),
            },
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub place: Place,
    /// The dotted key, such as `rtmp.listen` or `ladder[0].height`; empty when a text is no TOML at all.
    pub key: String,
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.place, self.what),
            key => write!(f, "{}: {key}: {}", self.place, self.what),
        }
    }
}

/// Says why there is no configuration. All of these are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration file {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// At least one fault, in the order of the layers and lines.
    #[error("{}", print(.0))]
    Refused(Vec<Fault>),
}

fn print(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads the file, if one is given, and merges it with the environment and the `--set` arguments.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    set: &[String],
) -> Result<Config, Error> {
    let text = match file {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
            Some((path, text))
        }
    };
    parse(text.as_ref().map(|(path, text)| (*path, text.as_str())), environment, set).map_err(Error::Refused)
}

/// Merges a file's text (with the name to call it by), the environment and the `--set` arguments.
pub fn parse(
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    set: &[String],
) -> Result<Config, Vec<Fault>> {
    let mut merge = Merge::new();
    if let Some((path, text)) = file {
        merge.file(path, text);
    }
    let mut variables: Vec<_> = environment.into_iter().filter(|(name, _)| name.starts_with("WEIR_")).collect();
    variables.sort();
    for (name, value) in variables {
        if !VARIABLES.iter().any(|(known, _)| *known == name) {
            merge.variable(&name, &value);
        }
    }
    for argument in set {
        merge.argument(argument);
    }
    merge.finish()
}

/// Lists every key with its default, sorted.
pub fn keys() -> BTreeMap<String, Value> {
    fn walk(prefix: &str, table: Table, into: &mut BTreeMap<String, Value>) {
        for (name, value) in table {
            let key = join(prefix, &name);
            match value {
                Value::Table(table) => walk(&key, table, into),
                value => {
                    into.insert(key, value);
                }
            }
        }
    }
    let mut keys = BTreeMap::new();
    let defaults = Table::try_from(Config::default()).expect("the defaults are TOML");
    walk("", defaults, &mut keys);
    keys
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.into() } else { format!("{prefix}.{name}") }
}

/// A value that was given, where, and where each piece of it was (`ladder[1].height`).
struct Leaf {
    value: Value,
    places: BTreeMap<String, Place>,
}

struct Merge {
    keys: BTreeMap<String, Value>,
    leaves: BTreeMap<String, Leaf>,
    faults: Vec<Fault>,
}

impl Merge {
    fn new() -> Self {
        Self { keys: keys(), leaves: BTreeMap::new(), faults: Vec::new() }
    }

    fn fault(&mut self, place: Place, key: impl Into<String>, what: impl Into<String>) {
        self.faults.push(Fault { place, key: key.into(), what: what.into() });
    }

    fn file(&mut self, path: &Path, text: &str) {
        let place = |span: Range<usize>| {
            let before = &text.as_bytes()[..span.start.min(text.len())];
            Place::File { path: path.to_owned(), line: 1 + before.iter().filter(|&&c| c == b'\n').count() }
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        let syntax = !errors.is_empty();
        for error in errors {
            self.fault(place(error.span().unwrap_or_default()), "", error.message());
        }
        // What is left of a broken text would only add guesses to the faults.
        if !syntax {
            self.table("", table.get_ref(), &place);
        }
    }

    fn variable(&mut self, name: &str, text: &str) {
        let key = name["WEIR_".len()..].to_lowercase().replace("__", ".");
        let place = Place::Environment(name.into());
        if !self.keys.contains_key(&key) && !self.is_section(&key) {
            let nearest = format!("WEIR_{}", nearest(&key, self.keys.keys()).to_uppercase().replace('.', "__"));
            return self.fault(place, "", format!("unknown setting, the nearest variable is {nearest}"));
        }
        self.given(&key, text, place);
    }

    fn argument(&mut self, argument: &str) {
        let place = Place::Set(argument.into());
        match argument.split_once('=') {
            None => self.fault(place, "", "is not KEY=VALUE, such as rtmp.listen=127.0.0.1:1935"),
            Some((key, text)) => self.given(key.trim(), text.trim(), place),
        }
    }

    /// Takes one value from outside the file: TOML, or a bare word or address, which is text.
    fn given(&mut self, key: &str, text: &str, place: Place) {
        let wants_text = self.keys.get(key).is_some_and(Value::is_str);
        let quoted = text.starts_with(['"', '\'', '[', '{']) && SocketAddr::from_str(text).is_err();
        let value = match DeValue::parse(text) {
            // `--set node.id=1` is the text "1".
            Ok(value) if !wants_text || quoted => value,
            Err(error) if quoted => return self.fault(place, key, error.message()),
            _ => Spanned::new(0..text.len(), DeValue::String(text.into())),
        };
        self.leaf_or_section(key, &value, place.clone(), &|_| place.clone());
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>, place: &dyn Fn(Range<usize>) -> Place) {
        for (name, value) in table {
            self.leaf_or_section(&join(prefix, name.get_ref()), value, place(name.span()), place);
        }
    }

    fn leaf_or_section(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        at: Place,
        place: &dyn Fn(Range<usize>) -> Place,
    ) {
        if self.keys.contains_key(key) {
            match Value::deserialize(ValueDeserializer::from(value.clone())) {
                Err(error) => self.fault(at, key, error.message()),
                Ok(plain) => {
                    let mut places = BTreeMap::from([(key.to_owned(), at)]);
                    pieces(key, value.get_ref(), place, &mut places);
                    self.leaves.insert(key.into(), Leaf { value: plain, places });
                }
            }
        } else if self.is_section(key) {
            match value.get_ref() {
                DeValue::Table(table) => self.table(key, table, place),
                _ => {
                    let inside: Vec<_> = self.keys.keys().filter(|k| inside(k, key)).cloned().collect();
                    self.fault(at, key, format!("is a section with the keys {}", inside.join(", ")));
                }
            }
        } else if value.get_ref().is_table() {
            let sections: BTreeSet<_> = self.keys.keys().filter_map(|key| key.split_once('.')).map(|s| s.0).collect();
            let what = format!("unknown section, the nearest is [{}]", nearest(key, sections));
            self.fault(at, key, what);
        } else {
            let what = format!("unknown key, the nearest is {}", nearest(key, self.keys.keys()));
            self.fault(at, key, what);
        }
    }

    fn is_section(&self, key: &str) -> bool {
        self.keys.keys().any(|k| inside(k, key))
    }

    fn finish(mut self) -> Result<Config, Vec<Fault>> {
        let mut whole = Table::new();
        let mut unread = Vec::new();
        for (key, leaf) in &self.leaves {
            let faults = match key.as_str() {
                "ladder" => read_list::<Entry>(key, leaf, good_rung()),
                "webhooks.targets" => read_list::<Target>(key, leaf, good_target()),
                _ => read(key, &leaf.value),
            };
            if faults.is_empty() {
                put(&mut whole, key, leaf.value.clone());
            } else {
                unread.push(key.clone());
                let placed = faults.into_iter().map(|(key, what)| Fault { place: self.place(&key), key, what });
                let placed: Vec<_> = placed.collect();
                self.faults.extend(placed);
            }
        }
        let config = Config::deserialize(Value::Table(whole)).expect("every leaf was read alone");
        for wrong in config.wrongs() {
            // A default that stands in for an unreadable value must not be blamed.
            if wrong.keys.iter().any(|key| unread.iter().any(|unread| key == unread || inside(key, unread))) {
                continue;
            }
            let places = wrong.keys.iter().map(|key| (self.place(key), key));
            let (place, key) = places.min_by_key(|(place, _)| *place == Place::Default).expect("it has a key");
            self.faults.push(Fault { place, key: key.clone(), what: wrong.what });
        }
        self.faults.sort();
        if self.faults.is_empty() { Ok(config) } else { Err(self.faults) }
    }

    /// Where a key was written: itself, or the nearest value around it.
    fn place(&self, key: &str) -> Place {
        let leaf = self.leaves.iter().find(|(leaf, _)| key == *leaf || inside(key, leaf));
        let Some((_, leaf)) = leaf else { return Place::Default };
        let around = leaf.places.iter().filter(|(piece, _)| key == *piece || inside(key, piece));
        around.max_by_key(|(piece, _)| piece.len()).map_or(Place::Default, |(_, place)| place.clone())
    }
}

/// Tells whether `key` lies inside `around`: `rtmp.listen` in `rtmp`, `ladder[0].height` in `ladder[0]`.
fn inside(key: &str, around: &str) -> bool {
    key.strip_prefix(around).is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// Notes where the elements and fields of a value are.
fn pieces(key: &str, value: &DeValue<'_>, place: &dyn Fn(Range<usize>) -> Place, into: &mut BTreeMap<String, Place>) {
    match value {
        DeValue::Array(array) => {
            for (i, element) in array.iter().enumerate() {
                let key = format!("{key}[{i}]");
                into.insert(key.clone(), place(element.span()));
                pieces(&key, element.get_ref(), place, into);
            }
        }
        DeValue::Table(table) => {
            for (name, value) in table {
                let key = join(key, name.get_ref());
                into.insert(key.clone(), place(name.span()));
                pieces(&key, value.get_ref(), place, into);
            }
        }
        _ => {}
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.into(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            put(inner.as_table_mut().expect("a section is a table"), rest, value);
        }
    }
}

/// Reads one value on top of the defaults; gives its key and what is wrong with it.
fn read(key: &str, value: &Value) -> Vec<(String, String)> {
    let mut alone = Table::new();
    put(&mut alone, key, value.clone());
    match Config::deserialize(Value::Table(alone)) {
        Ok(_) => Vec::new(),
        Err(error) => vec![(key.into(), error.message().into())],
    }
}

fn good_rung() -> Table {
    let good = Entry { height: 720, bitrate_kbps: 2800, fps_max: Some(30), name: Some(Rendition::source()) };
    Table::try_from(good).expect("a rung is TOML")
}

fn good_target() -> Table {
    let good = Target { url: None, secret: None, events: Default::default() };
    Table::try_from(good).expect("a target is TOML")
}

/// Reads a list element by element and field by field, each on top of a good element, for the same reason.
fn read_list<T: DeserializeOwned>(list: &str, leaf: &Leaf, good: Table) -> Vec<(String, String)> {
    let Value::Array(elements) = &leaf.value else { return read(list, &leaf.value) };
    let mut faults = Vec::new();
    for (i, element) in elements.iter().enumerate() {
        let before = faults.len();
        for (name, value) in element.as_table().into_iter().flatten() {
            let key = format!("{list}[{i}].{name}");
            if !good.contains_key(name) {
                let what = format!("unknown key, the nearest is {}", nearest(name, good.keys()));
                faults.push((key, what));
                continue;
            }
            let mut alone = good.clone();
            alone.insert(name.clone(), value.clone());
            if let Err(error) = T::deserialize(Value::Table(alone)) {
                faults.push((key, error.message().into()));
            }
        }
        if before == faults.len()
            && let Err(error) = T::deserialize(element.clone())
        {
            faults.push((format!("{list}[{i}]"), error.message().into()));
        }
    }
    faults
}

/// Picks the valid key that a person most likely meant: alike as a whole, or in its last word.
fn nearest<'a, T: AsRef<str> + ?Sized + 'a>(key: &str, valid: impl IntoIterator<Item = &'a T>) -> String {
    let last = |key: &'a str| key.rsplit('.').next().unwrap_or(key);
    let score = |candidate: &'a str| {
        let whole = strsim::normalized_damerau_levenshtein(key, candidate);
        let word = key.rsplit('.').next().unwrap_or(key);
        whole.max(0.9 * strsim::normalized_damerau_levenshtein(word, last(candidate)))
    };
    let valid = valid.into_iter().map(AsRef::as_ref);
    valid.max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or_default().to_owned()
}

/// Whether the value of a key is not to be seen: it is a secret, or holds one.
fn is_secret(key: &str) -> bool {
    ["secret", "password", "publish_url", "play_url", "webhooks.targets", "webhooks", "auth"]
        .iter()
        .any(|ending| key.trim_end().ends_with(ending))
}
