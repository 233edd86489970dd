//! Configuration as an operator meets it: layers, faults with their place, and the commented file.

use std::{collections::BTreeSet, path::Path, time::Duration};

use weir::config::{self, Config, Error, Publish, Role};

const FILE: &str = "config/weir.toml";

fn parse(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Result<Config, Vec<String>> {
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let set: Vec<String> = set.iter().map(|argument| argument.to_string()).collect();
    let faults = |faults: Vec<config::Fault>| faults.iter().map(|fault| fault.to_string()).collect();
    config::parse(Some((Path::new("weir.toml"), file)), environment, &set).map_err(faults)
}

#[test]
fn nothing_given_is_the_default() {
    let config = parse("", &[], &[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.rtmp.listen.to_string(), "0.0.0.0:1935");
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.internal.listen.to_string(), "127.0.0.1:8090");
    assert_eq!(config.live.chunk, Duration::from_secs(2));
    assert_eq!(config.live.reconnect_window, Duration::from_secs(60));
    assert_eq!(config.auth.publish, Publish::Keys);
    let ladder: Vec<_> = config.ladder.iter().map(|rung| (rung.height, rung.bitrate_kbps)).collect();
    assert_eq!(ladder, [(720, 2800), (480, 1200), (360, 700), (160, 250)]);
}

#[test]
fn later_layers_win() {
    let file = "[live]\nchunk = \"1s\"\nwindow = 6\n[node]\nid = \"file\"";
    let environment = [("WEIR_LIVE__CHUNK", "3s"), ("WEIR_LIVE__WINDOW", "7"), ("HOME", "/"), ("WEIR_CONFIG", "x")];
    let config = parse(file, &environment, &["live.chunk=4s", "live.chunk=5s"]).unwrap();
    assert_eq!(config.live.chunk, Duration::from_secs(5));
    assert_eq!(config.live.window, 7);
    assert_eq!(config.node.id, "file");
    // A bad value that a later layer replaces does no harm.
    assert!(parse("live.chunk = 9", &[("WEIR_LIVE__CHUNK", "3s")], &[]).is_ok());
}

#[test]
fn arguments_are_toml_or_bare_text() {
    let config = parse("", &[], &["rtmp.listen=127.0.0.1:1936", "http.listen=[::1]:0", "internal.listen=\"[::1]:0\""]);
    let config = config.unwrap();
    assert_eq!(config.rtmp.listen.to_string(), "127.0.0.1:1936");
    assert_eq!(config.http.listen.to_string(), "[::1]:0");
    assert_eq!(config.internal.listen.to_string(), "[::1]:0");

    let set = [
        "ladder=[]",
        "auth.publish=open",
        "live.chunk = 2s",
        "transcode.cpu_share=0.5",
        "node.roles=[\"edge\"]",
        "edge.upstream=[\"http://10.0.0.5:8090\", \"http://[fd00::1]:8090/\"]",
        "internal.secret=sixteen-letters!",
        "node.id=1",
        "data.dir=/var/lib/my weir",
        "transcode.pipelines=pipes",
        "log={ level = 'debug', format = 'json' }",
    ];
    let config = parse("ladder = [{ height = 720, bitrate_kbps = 1 }]", &[], &set).unwrap();
    assert!(config.ladder.is_empty());
    assert_eq!(config.auth.publish, Publish::Open);
    assert_eq!(config.transcode.cpu_share, 0.5);
    assert_eq!(config.node.roles, [Role::Edge]);
    assert_eq!(config.node.id, "1");
    assert_eq!(config.data.dir, Path::new("/var/lib/my weir"));
    assert_eq!(config.transcode.pipelines.as_deref(), Some(Path::new("pipes")));
    assert_eq!(config.log.level, "debug");

    let config = parse("", &[], &["ladder=[{height=480,bitrate_kbps=900,fps_max=30,name='low'}]"]).unwrap();
    assert_eq!(config.ladder[0].title().as_str(), "low");
    assert_eq!(config.ladder[0].fps_max, Some(30));
}

#[test]
fn a_ladder_may_be_written_as_tables() {
    let config =
        parse("[[ladder]]\nheight = 480\nbitrate_kbps = 900\n[[ladder]]\nheight = 360\nbitrate_kbps = 1\n", &[], &[]);
    assert_eq!(
        config.unwrap_err(),
        ["weir.toml:6: ladder[1].bitrate_kbps: 1 is out of range, 32 to 100000 are possible"]
    );
}

/// Each fault names the place, the key, and what to write instead.
#[test]
fn faults_say_where_and_what() {
    let table: &[(&str, &str)] = &[
        // Unknown keys, anywhere.
        ("[rtmp]\n\nlisen = \"0.0.0.0:1\"", "weir.toml:3: rtmp.lisen: unknown key, the nearest is rtmp.listen"),
        ("chunk = \"2s\"", "weir.toml:1: chunk: unknown key, the nearest is live.chunk"),
        ("[node]\n[rtpm]\nlisten = 1", "weir.toml:2: rtpm: unknown section, the nearest is [rtmp]"),
        ("live.windw = 20", "weir.toml:1: live.windw: unknown key, the nearest is live.window"),
        (
            "ladder = [\n{ height = 720, bitrate_kbps = 2800 },\n{ hieght = 480, bitrate_kbps = 900 }]",
            "weir.toml:3: ladder[1].hieght: unknown key, the nearest is height",
        ),
        // Wrong types.
        ("live.window = \"15\"", "weir.toml:1: live.window: invalid type: string \"15\", expected u32"),
        (
            "rtmp = 5",
            "weir.toml:1: rtmp: is a section with the keys rtmp.first_media_timeout, rtmp.half_open_max, \
                      rtmp.idle_timeout, rtmp.listen, rtmp.publishers_max",
        ),
        ("\nlive.chunk = 2", "weir.toml:2: live.chunk: invalid type: integer `2`, expected a string"),
        (
            "live.chunk = \"2\"",
            "weir.toml:1: live.chunk: \"2\" is not a duration: a number and ms, s, m, h or d, such as \"2s\", \"0.5s\" or \"500ms\"",
        ),
        (
            "http.listen = \"localhost\"",
            "weir.toml:1: http.listen: \"localhost\" is not an IP address and port, such as \"0.0.0.0:1935\" or \"[::]:1935\"",
        ),
        ("auth.publish = \"opne\"", "weir.toml:1: auth.publish: unknown variant `opne`, expected `keys` or `open`"),
        (
            "node.roles = [\"gate\"]",
            "weir.toml:1: node.roles: unknown variant `gate`, expected one of `gateway`, `origin`, `edge`",
        ),
        ("ladder = [{ height = 720 }]", "weir.toml:1: ladder[0]: missing field `bitrate_kbps`"),
        (
            "ladder = [{ height = -2, bitrate_kbps = 100 }]",
            "weir.toml:1: ladder[0].height: invalid value: integer `-2`, expected u32",
        ),
        // Impossible values.
        ("live.chunk = \"999ms\"", "weir.toml:1: live.chunk: 999ms is out of range, 1s to 6s are possible"),
        ("live.chunk = \"7s\"", "weir.toml:1: live.chunk: 7s is out of range, 1s to 6s are possible"),
        ("live.window = 5", "weir.toml:1: live.window: 5 is out of range, 6 to 150 are possible"),
        (
            "live.reconnect_window = \"31m\"",
            "weir.toml:1: live.reconnect_window: 31m is out of range, 0s to 30m are possible",
        ),
        ("rtmp.idle_timeout = \"0s\"", "weir.toml:1: rtmp.idle_timeout: 0s is out of range, 1s to 10m are possible"),
        ("rtmp.publishers_max = 0", "weir.toml:1: rtmp.publishers_max: 0 is out of range, 1 to 100000 are possible"),
        ("transcode.cpu_share = 1.5", "weir.toml:1: transcode.cpu_share: 1.5 is out of range, 0.05 to 1 are possible"),
        ("transcode.cpu_share = nan", "weir.toml:1: transcode.cpu_share: NaN is out of range, 0.05 to 1 are possible"),
        (
            "node.roles = []",
            "weir.toml:1: node.roles: is empty, a node needs at least one of \"gateway\", \"origin\", \"edge\"",
        ),
        ("node.roles = [\"origin\", \"origin\"]", "weir.toml:1: node.roles: names \"origin\" twice"),
        (
            "node.roles = [\"edge\"]",
            "default: edge.upstream: is empty: a node without the role \"origin\" has nothing to show but what other nodes \
             have",
        ),
        (
            "node.roles = [\"gateway\", \"edge\"]\nedge.upstream = [\"http://a:1\"]",
            "weir.toml:1: node.roles: \"gateway\" without \"origin\": publishers go to a node that makes chunks",
        ),
        (
            "node.roles = [\"origin\"]\nedge.upstream = [\"http://a:1\"]",
            "weir.toml:2: edge.upstream: names nodes, but node.roles has no \"edge\"",
        ),
        (
            "edge.upstream = [\"http://a:1\", \"http://b:1/live\"]",
            "weir.toml:1: edge.upstream[1]: the one at \"b\" is not the plain address of an internal port, such as \
             \"http://10.0.0.5:8090\"",
        ),
        (
            "edge.upstream = [\"http://a:1\", \"http://a:1/\"]",
            "weir.toml:1: edge.upstream[1]: http://a:1/ is named twice",
        ),
        (
            "https.certificate = \"a.pem\"",
            "default: https.key: is empty: https.certificate is of no use without its key",
        ),
        ("https.key = \"a.pem\"", "default: https.certificate: is empty: https.key is of no use without it"),
        (
            "internal.secret = \"short\"",
            "weir.toml:1: internal.secret: must have at least 16 letters, digits or signs, no blanks",
        ),
        (
            "node.id = \"../x\"",
            "weir.toml:1: node.id: \"../x\" is not legal: 1 to 32 of a-z, 0-9, '-', '_', starting with a letter or digit",
        ),
        ("data.dir = \"\"", "weir.toml:1: data.dir: must name a folder"),
        (
            "log.level = \"inof\"",
            "weir.toml:1: log.level: \"inof\" is not one of off, error, warn, info, debug, trace, nor a module and one of \
             them, such as \"weir::rtmp=debug\"",
        ),
        (
            "\nhttp.listen = \"127.0.0.1:1935\"",
            "weir.toml:2: http.listen: rtmp.listen and http.listen both want port 1935",
        ),
        (
            "\n\nrtmp.listen = \"0.0.0.0:8090\"",
            "weir.toml:3: rtmp.listen: rtmp.listen and internal.listen both want port 8090",
        ),
        (
            "ladder = [{ height = 481, bitrate_kbps = 900 }]",
            "weir.toml:1: ladder[0].height: 481 is odd, encoders need an even height",
        ),
        (
            "ladder = [{ height = 0, bitrate_kbps = 900 }]",
            "weir.toml:1: ladder[0].height: 0 is out of range, 32 to 4320 are possible",
        ),
        (
            "ladder = [{ height = 720, bitrate_kbps = 0 }]",
            "weir.toml:1: ladder[0].bitrate_kbps: 0 is out of range, 32 to 100000 are possible",
        ),
        (
            "ladder = [{ height = 720, bitrate_kbps = 99, fps_max = 0 }]",
            "weir.toml:1: ladder[0].fps_max: 0 is out of range, 1 to 120 are possible",
        ),
        (
            "ladder = [{ height = 720, bitrate_kbps = 99 },\n{ height = 720, bitrate_kbps = 98 }]",
            "weir.toml:2: ladder[1].height: two rungs are named \"720p\": ladder[0] and ladder[1]; give one a `name`",
        ),
        (
            "webhooks.targets = [{ url = \"https://a.example/\", secret = \"short\" }]",
            "weir.toml:1: webhooks.targets[0].secret: a secret is \"whsec_\" and base64 of 24 to 64 random bytes, or a text of \
             24 to 64 letters",
        ),
        (
            "[[webhooks.targets]]\nurl = \"http://169.254.169.254/?token=x\"\nsecret = \"a-secret-of-24-letters..\"",
            "weir.toml:2: webhooks.targets[0].url: is a private address: set webhooks.allow_private = true if it is yours",
        ),
        (
            "webhooks.targets = [{ url = \"a.example?token\", secret = \"a-secret-of-24-letters..\" }]",
            "weir.toml:1: webhooks.targets[0].url: is no URL (relative URL without a base), such as \
             \"https://example.com/weir\"",
        ),
        (
            "webhooks.targets = [{ url = \"https://a.example\", secert = \"x\" }]",
            "weir.toml:1: webhooks.targets[0].secert: unknown key, the nearest is secret",
        ),
        (
            "auth.play_url = \"http://localhost:9/\"\nauth.url_secret = \"a-secret-of-24-letters..\"",
            "weir.toml:1: auth.play_url: is a private address: set webhooks.allow_private = true if it is yours",
        ),
        (
            "auth.publish_url = \"https://a.example/\"",
            "weir.toml:1: auth.publish_url: needs auth.url_secret: what is asked there is signed with it",
        ),
        (
            "ladder = [{ height = 720, bitrate_kbps = 99, name = \"audio\" }]",
            "weir.toml:1: ladder[0].name: \"audio\" is taken by a rendition that always has that name",
        ),
    ];
    for (file, expected) in table {
        assert_eq!(parse(file, &[], &[]).expect_err(file), [*expected], "{file}");
    }
}

#[test]
fn broken_toml_names_the_line() {
    let faults = parse("[rtmp]\nlisten = \n[http]\nlisten = \"x\n", &[], &["live.chunk=9s"]).unwrap_err();
    assert!(faults.iter().any(|fault| fault.starts_with("weir.toml:2: ")), "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.starts_with("weir.toml:4: ")), "{faults:#?}");
    assert!(faults.iter().any(|fault| fault.starts_with("--set live.chunk=9s: live.chunk: 9s")), "{faults:#?}");
    let faults = parse("[live]\nwindow = 8\nwindow = 9\n", &[], &[]).unwrap_err();
    assert!(faults.len() == 1 && faults[0].starts_with("weir.toml:3: "), "{faults:#?}");
}

#[test]
fn faults_name_the_variable_and_the_argument() {
    for (name, value, expected) in [
        (
            "WEIR_RTMP__LISEN",
            "1",
            "environment variable WEIR_RTMP__LISEN: unknown setting, the nearest variable is WEIR_RTMP__LISTEN",
        ),
        (
            "WEIR_LISTEN",
            "1",
            "environment variable WEIR_LISTEN: unknown setting, the nearest variable is WEIR_RTMP__LISTEN",
        ),
        (
            "WEIR_LIVE__CHUNK",
            "9s",
            "environment variable WEIR_LIVE__CHUNK: live.chunk: 9s is out of range, 1s to 6s are possible",
        ),
    ] {
        assert_eq!(parse("", &[(name, value)], &[]).unwrap_err(), [expected]);
    }
    for (argument, expected) in [
        ("live.chunk", "--set live.chunk: is not KEY=VALUE, such as rtmp.listen=127.0.0.1:1935"),
        ("live.chnk=2s", "--set live.chnk=2s: live.chnk: unknown key, the nearest is live.chunk"),
        ("live.window=x", "--set live.window=x: live.window: invalid type: string \"x\", expected u32"),
        (
            "rtmp=x",
            "--set rtmp=x: rtmp: is a section with the keys rtmp.first_media_timeout, rtmp.half_open_max, \
                    rtmp.idle_timeout, rtmp.listen, rtmp.publishers_max",
        ),
        (
            "internal.secret=short",
            "--set internal.secret=...: internal.secret: must have at least 16 letters, digits or signs, no blanks",
        ),
        ("ladder=x", "--set ladder=x: ladder: invalid type: string \"x\", expected a sequence"),
    ] {
        assert_eq!(parse("", &[], &[argument]).unwrap_err(), [expected]);
    }
    let faults = parse("", &[], &["ladder=[{height=720"]).unwrap_err();
    assert!(faults.iter().all(|fault| fault.starts_with("--set ladder=[{height=720: ladder: ")), "{faults:#?}");
}

#[test]
fn all_faults_come_at_once_in_order() {
    let file =
        "rtmp.lisen = 1\nlive.chunk = 5\nlive.window = 1\nladder = [{ height = 3, bitrate_kbps = 1, fps = 2 }]\n";
    let faults = parse(file, &[("WEIR_X", "1")], &["http.listen=0.0.0.0:1935", "y=1"]).unwrap_err();
    let starts = [
        "weir.toml:1: rtmp.lisen: ",
        "weir.toml:2: live.chunk: ",
        "weir.toml:3: live.window: ",
        "weir.toml:4: ladder[0].fps: ",
        "environment variable WEIR_X: ",
        "--set http.listen=0.0.0.0:1935: http.listen: ",
        "--set y=1: y: ",
    ];
    assert_eq!(faults.len(), starts.len(), "{faults:#?}");
    for (fault, start) in faults.iter().zip(starts) {
        assert!(fault.starts_with(start), "{fault} / {start}");
    }
}

#[test]
fn a_default_is_not_blamed_for_an_unreadable_neighbour() {
    let faults = parse("rtmp.listen = \"x\"\nhttp.listen = \"0.0.0.0:1935\"", &[], &[]).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:#?}");
}

#[test]
fn ports_that_do_not_meet_are_fine() {
    for set in [
        ["rtmp.listen=127.0.0.1:9", "http.listen=127.0.0.2:9", "internal.listen=127.0.0.3:9"],
        ["rtmp.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "internal.listen=127.0.0.1:0"],
    ] {
        assert!(parse("", &[], &set).is_ok());
    }
}

#[test]
fn dangerous_settings_are_warned_of() {
    assert_eq!(Config::default().warnings(), [""; 0]);
    let open =
        parse("", &[], &["auth.publish=open", "internal.listen=0.0.0.0:8090", "internal.secret=sixteen-letters!"])
            .unwrap()
            .warnings();
    assert!(open.len() == 2 && open[0].contains("ANYONE") && open[1].contains("internal.listen"), "{open:?}");
}

#[test]
fn a_missing_file_is_named() {
    let error = config::load(Some(Path::new("no/such.toml")), [], &[]).unwrap_err();
    assert!(matches!(error, Error::Read { .. }) && error.to_string().contains("no/such.toml"), "{error}");
}

/// Removes the "#" of settings; prose starts with "# ".
fn uncommented(text: &str, wanted: impl Fn(usize) -> bool) -> String {
    let mut setting = 0;
    let mut lines = Vec::new();
    for line in text.lines() {
        let code = line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' '));
        let starts = code.is_some_and(|code| code.starts_with(|c: char| c.is_ascii_lowercase()));
        setting += usize::from(starts);
        match code {
            Some(code) if wanted(setting) => lines.push(code),
            _ => lines.push(line),
        }
    }
    lines.join("\n")
}

fn keys_in(text: &str) -> BTreeSet<String> {
    let table: toml::Table = text.parse().unwrap();
    let mut keys = BTreeSet::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(section) => keys.extend(section.keys().map(|key| format!("{name}.{key}"))),
            _ => _ = keys.insert(name),
        }
    }
    keys
}

#[test]
fn the_file_holds_every_key_with_its_default() {
    let text = std::fs::read_to_string(FILE).unwrap();
    assert_eq!(parse(&text, &[], &[]).unwrap(), Config::default());
    assert!(keys_in(&text).is_empty(), "the shipped file changes nothing");

    let all = uncommented(&text, |_| true);
    assert_eq!(parse(&all, &[], &[]).unwrap(), Config::default());
    let keys: BTreeSet<String> = config::keys().into_keys().collect();
    assert_eq!(keys_in(&all), keys);

    let mut seen = BTreeSet::new();
    for i in 1..=keys.len() {
        let one = uncommented(&text, |setting| setting == i);
        assert_eq!(parse(&one, &[], &[]).unwrap(), Config::default(), "{one}");
        let found = keys_in(&one);
        assert_eq!(found.len(), 1, "{found:?}");
        seen.extend(found);
    }
    assert_eq!(seen, keys);
}

#[test]
fn the_file_explains_every_key() {
    let text = std::fs::read_to_string(FILE).unwrap();
    let lines: Vec<_> = text.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        if line.strip_prefix('#').is_some_and(|code| code.starts_with(|c: char| c.is_ascii_lowercase())) {
            assert!(lines[i - 1].starts_with("# "), "line {}: {line} has no explanation above it", i + 1);
        }
    }
}

/// The defaults serialise to themselves, so the key list that is made from them is complete.
#[test]
fn every_key_can_be_set_by_environment_and_argument() {
    for (key, default) in config::keys() {
        let variable = format!("WEIR_{}", key.to_uppercase().replace('.', "__"));
        let value = default.to_string();
        assert_eq!(parse("", &[(&variable, &value)], &[]).unwrap(), Config::default(), "{variable}={value}");
        let argument = format!("{key}={value}");
        assert_eq!(parse("", &[], &[&argument]).unwrap(), Config::default(), "{argument}");
    }
}
