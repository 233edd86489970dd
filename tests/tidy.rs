//! The layout rules that no compiler knows: who may use whom, how long a file is, what must not stay behind.
//!
//! Each rule is a function over paths and texts, tried on small samples below, then on the repository.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// DESIGN section 12 from top to bottom; a module uses only modules of lines above its own.
const LAYERS: &[&[&str]] = &[
    &["time"],
    &["id"],
    &["secret"],
    &["media"],
    &["rtmp"],
    &["store"],
    &["cluster"],
    &["transcode"],
    &["package"],
    &["line"],
    &["recording"],
    &["ingest"],
    &["cache"],
    &["hooks"],
    &["chat", "audience"],
    &["auth"],
    &["http"],
    &["config"],
    &["node"],
    &["cli"],
    &["main"],
];

/// Pure and without state: modules above its line may use it too, as long as it does not use them.
const FOR_ALL: &[&str] = &["auth"];

const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "pipelines",
    "config",
    "testdata",
    "tests",
    "benches",
    "docker",
    "README.md",
    "Makefile",
    "web",
    "scripts",
    "CHANGELOG.md",
    "LICENSE",
];

/// Some 500 lines are the aim; here it is two files.
const LINES_MAX: usize = 700;

/// Written in two halves, so that this file holds none of them.
const LEFT_BEHIND: &[(&str, &str)] = &[
    (concat!("dbg", "!("), "is for trying out"),
    (concat!("todo", "!("), "is not finished"),
    (concat!("unimplemented", "!("), "is not finished"),
    (concat!("#[", "ignore"), "is a test that does not run"),
];

const MACHINE_PATHS: &[&str] = &[concat!("/", "root/"), concat!("/", "home/"), concat!("/", "Users/")];

const NOTES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// The module that a source file belongs to; none for the list of modules itself.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib").then_some(name)
}

/// The modules of this crate that a source text names, in code and not in comments.
fn uses(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for root in ["crate::", "weir::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            found.extend(first_names(&code[at + root.len()..]));
        }
    }
    found
}

/// The first names of a path or of a group of paths: `a::b` gives a, `{a, b::{c, d}}` gives a and b.
fn first_names(text: &str) -> Vec<String> {
    let name = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = text.strip_prefix('{') else { return vec![name(text)] };
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 0 => {
                names.push(name(&group[start..i]));
                start = i + 1;
            }
            '}' if depth == 0 => {
                names.push(name(&group[start..i]));
                break;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Finds modules that use something of their own line or below.
fn upward_uses<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let layer = |module: &str| LAYERS.iter().position(|line| line.contains(&module));
    let mut edges = BTreeMap::new();
    for (path, text) in sources {
        let Some(module) = module_of(path) else { continue };
        for used in uses(text).into_iter().filter(|used| used != module) {
            edges.entry((module.to_owned(), used)).or_insert(path);
        }
    }
    let mut wrong = Vec::new();
    for ((module, used), path) in &edges {
        let mutual = edges.contains_key(&(used.clone(), module.clone()));
        match (layer(module), layer(used)) {
            (None, _) => wrong.push(format!("{path}: module {module} is not in the table of modules")),
            (_, None) => {
                wrong.push(format!("{path}: {module} uses crate::{used}, which is not in the table of modules"))
            }
            (Some(own), Some(other)) if other >= own && (mutual || !FOR_ALL.contains(&used.as_str())) => {
                wrong.push(format!("{path}: {module} uses {used}, which is not above it in the table of modules"));
            }
            _ => {}
        }
    }
    wrong
}

/// Finds what must not stand in a file.
fn blemishes(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let code = path.ends_with(".rs") || path.ends_with(".ts");
    if code && text.lines().count() > LINES_MAX {
        wrong.push(format!("{path}: has {} lines, more than {LINES_MAX}: it is two files", text.lines().count()));
    }
    for (i, line) in text.lines().enumerate() {
        let mut add = |what: String| wrong.push(format!("{path}:{}: {what}", i + 1));
        if path.ends_with(".rs") {
            for (token, why) in LEFT_BEHIND.iter().filter(|(token, _)| line.contains(token)) {
                add(format!("{token} {why}"));
            }
        }
        for folder in MACHINE_PATHS.iter().filter(|folder| absolute(line, folder)) {
            add(format!("{folder} is a path of one machine"));
        }
        for note in NOTES.iter().filter(|note| unexplained(line, note)) {
            add(format!("{note} without an explanation: write \"{note}: what is missing and why\""));
        }
        let address = line.trim_start().strip_prefix("\"resolved\":");
        if path.ends_with("package-lock.json") && address.is_some_and(|address| address.contains("http")) {
            add("a lock file holds no download address (npm: omit-lockfile-registry-resolved)".into());
        }
    }
    wrong
}

/// Tells whether a line names the folder from the root on: `web/src/home/x` does not.
fn absolute(line: &str, folder: &str) -> bool {
    let part_of_a_path = |c: char| c.is_alphanumeric() || "._-~$}".contains(c);
    line.match_indices(folder).any(|(at, _)| !line[..at].ends_with(part_of_a_path))
}

/// Tells whether a line holds the note as a word and then less than three words that explain it.
fn unexplained(line: &str, note: &str) -> bool {
    let Some(at) = line.find(note) else { return false };
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    let (before, after) = (&line[..at], &line[at + note.len()..]);
    if before.ends_with(part_of_a_word) || after.starts_with(part_of_a_word) {
        return false;
    }
    !after.starts_with(':') || after.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic)).count() < 3
}

/// Finds entries of the top folder that have no place there.
fn strangers<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let top: BTreeSet<&str> = paths.into_iter().filter_map(|path| path.split('/').next()).collect();
    let strange = top.into_iter().filter(|name| !name.starts_with('.') && !TOP.contains(name));
    strange.map(|name| format!("{name}: has no place at the top of the repository")).collect()
}

/// Lists the repository's text files: tracked, or new and not ignored.
fn repository() -> BTreeMap<String, String> {
    let root = env!("CARGO_MANIFEST_DIR");
    // A checkout that belongs to someone else is as good as one's own here.
    let arguments = ["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let listed = Command::new("git").args(arguments).current_dir(root).output().expect("git lists the files");
    assert!(listed.status.success(), "git: {}", String::from_utf8_lossy(&listed.stderr));
    let paths = String::from_utf8(listed.stdout).expect("paths are text");
    let read = |path: &str| match std::fs::read(format!("{root}/{path}")) {
        // Media in testdata is no text; a file that is deleted but not yet committed is no file.
        Ok(bytes) => Some((path.to_owned(), String::from_utf8(bytes).unwrap_or_default())),
        Err(_) => None,
    };
    paths.split_terminator('\0').filter_map(read).collect()
}

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn modules_use_only_modules_above_them() {
    let files = repository();
    assert!(files.contains_key("src/main.rs"), "the sources are seen");
    none(upward_uses(files.iter().map(|(path, text)| (path.as_str(), text.as_str()))));
}

#[test]
fn nothing_is_left_behind() {
    none(repository().iter().flat_map(|(path, text)| blemishes(path, text)).collect());
}

#[test]
fn the_top_folder_holds_only_what_belongs_there() {
    none(strangers(repository().keys().map(String::as_str)));
}

#[test]
fn uses_are_found() {
    let text = "
        use crate::media::Packet;
        use crate::{id::StreamId, store::{self, rows::{A, B}}, time};
        // use crate::node::Node;
        /// [`crate::http`]
        fn f() { crate::line::open(); $crate::auth::x(); supercrate::cache::y() }
        use other::crate::chat;
        weir::config::load();";
    let expected = ["auth", "config", "id", "line", "media", "store", "time"];
    assert_eq!(uses(text).iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn files_belong_to_modules() {
    for (path, module) in [
        ("src/id.rs", Some("id")),
        ("src/media/wire.rs", Some("media")),
        ("src/main.rs", Some("main")),
        ("src/lib.rs", None),
        ("tests/tidy.rs", None),
    ] {
        assert_eq!(module_of(path), module, "{path}");
    }
}

#[test]
fn upward_uses_are_refused() {
    for (sources, wrong) in [
        (vec![("src/package/mod.rs", "use crate::media::Packet;")], None),
        (vec![("src/media/mod.rs", "use crate::package::Window;")], Some("media uses package")),
        (vec![("src/chat.rs", "use crate::audience;")], Some("chat uses audience")),
        (vec![("src/node/mod.rs", "use crate::{http, line, config};")], None),
        (vec![("src/http/mod.rs", "use crate::node::Node;")], Some("http uses node")),
        (vec![("src/config/mod.rs", "use crate::transcode::Entry;")], None),
        (vec![("src/transcode/mod.rs", "use crate::config::Config;")], Some("transcode uses config")),
        (vec![("src/main.rs", "fn main() { weir::cli::run() }")], None),
        // The pure exception, and its limit.
        (vec![("src/ingest.rs", "use crate::auth;")], None),
        (vec![("src/ingest.rs", "use crate::auth;"), ("src/auth.rs", "use crate::ingest;")], Some("ingest uses auth")),
        // What the table does not know.
        (vec![("src/misc.rs", "use crate::id;")], Some("misc is not in the table")),
        (vec![("src/line.rs", "use crate::util::x;")], Some("crate::util, which is not in the table")),
        (vec![("src/id.rs", "use crate::time;")], None),
        (vec![("src/time.rs", "use crate::id;")], Some("time uses id")),
    ] {
        let found = upward_uses(sources.clone());
        match wrong {
            None => assert!(found.is_empty(), "{sources:?}: {found:?}"),
            Some(words) => assert!(found.len() == 1 && found[0].contains(words), "{sources:?}: {found:?}"),
        }
    }
}

#[test]
fn blemishes_are_refused() {
    for (path, text, wrong) in [
        ("src/a.rs", format!("x();\n{}x);", LEFT_BEHIND[0].0), Some("src/a.rs:2: ")),
        ("src/a.rs", format!("{});", LEFT_BEHIND[1].0), Some("not finished")),
        ("src/a.rs", format!("{});", LEFT_BEHIND[2].0), Some("not finished")),
        ("tests/a.rs", format!("{} = \"slow\"]", LEFT_BEHIND[3].0), Some("does not run")),
        ("README.md", format!("{}x)", LEFT_BEHIND[0].0), None),
        ("scripts/a", format!("cd {}me", MACHINE_PATHS[1]), Some("path of one machine")),
        ("README.md", format!("{}x", MACHINE_PATHS[0]), Some("path of one machine")),
        ("web/index.html", format!("src=\"/src{}main.ts\"", MACHINE_PATHS[1]), None),
        ("src/a.rs", "x\n".repeat(LINES_MAX), None),
        ("src/a.rs", "x\n".repeat(LINES_MAX + 1), Some("it is two files")),
        ("web/src/a.ts", "x\n".repeat(LINES_MAX + 1), Some("it is two files")),
        ("Cargo.lock", "x\n".repeat(LINES_MAX + 1), None),
        ("src/a.rs", format!("// {}", NOTES[0]), Some("without an explanation")),
        ("src/a.rs", format!("// {} later", NOTES[1]), Some("without an explanation")),
        ("src/a.rs", format!("// {}: later", NOTES[2]), Some("without an explanation")),
        ("src/a.rs", format!("// {}: VP9 waits for a decoder", NOTES[0]), None),
        ("src/a.rs", format!("const {}S: u8 = 1; // MA{}", NOTES[0], NOTES[2]), None),
        ("web/package-lock.json", "  \"resolved\": \"https://r/x.tgz\",".into(), Some("no download address")),
        ("web/package-lock.json", "  \"funding\": \"https://r/x\",".into(), None),
    ] {
        let found = blemishes(path, &text);
        match wrong {
            None => assert!(found.is_empty(), "{path} {text}: {found:?}"),
            Some(words) => assert!(found.len() == 1 && found[0].contains(words), "{path} {text}: {found:?}"),
        }
    }
}

#[test]
fn strangers_are_refused() {
    let paths = ["src/a.rs", ".gitignore", ".ci/run", "Cargo.toml", "notes.txt", "tools/x", "tools/y"];
    assert_eq!(strangers(paths).len(), 2);
    assert_eq!(strangers(paths)[0], "notes.txt: has no place at the top of the repository");
}
