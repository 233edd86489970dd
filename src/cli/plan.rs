//! What a node would do with a configuration, in words, for `weir check`. Pure.

use std::fmt::Write;

use crate::{
    config::{Config, Publish, Role, stores::Kind, text::print_duration},
    hooks::address,
    transcode::Choice,
};

/// Tells what the node would do.
pub fn render(config: &Config) -> String {
    let mut text = String::from("configuration is fine\n");
    let mut line = |what: &str, value: String| _ = writeln!(text, "  {what:<12} {value}");
    let roles: Vec<_> = config.node.roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect();
    line("node", format!("{}: {}", config.node.id, roles.join(", ")));
    let has = |role| config.node.roles.contains(&role);
    if has(Role::Gateway) {
        let key = match (&config.auth.publish_url, config.auth.publish) {
            (Some(url), _) => format!("whom {} lets in", address::shown(url)),
            (None, Publish::Keys) => "with a stream key".into(),
            (None, Publish::Open) => "WITHOUT a stream key".into(),
        };
        line("publishers", format!("rtmp://{}/live, {key}", config.rtmp.listen));
    }
    let whom = config.auth.play_url.as_ref().map(|url| format!(", whom {} lets in", address::shown(url)));
    line("viewers", format!("http://{}/{}", config.http.listen, whom.unwrap_or_default()));
    if config.https.certificate.is_some() {
        line("", format!("https://{}/", config.https.listen));
    }
    for upstream in &config.edge.upstream {
        line("upstream", upstream.to_string());
    }
    line("other nodes", config.internal.listen.to_string());
    line("data", config.data.dir.display().to_string());
    if config.store.kind == Kind::Scylla {
        line("rows", format!("keyspace {} at {}", config.store.keyspace, config.store.nodes.join(", ")));
    }
    if let Some(url) = &config.blobs.url {
        line("chunk bytes", url.to_string());
    }
    for url in config.webhooks.targets.iter().filter_map(|target| target.url.as_ref()) {
        line("webhook", address::shown(url));
    }
    if has(Role::Origin) {
        tell_chunks(config, line);
    }
    for warning in config.warnings() {
        _ = writeln!(text, "warning: {warning}");
    }
    text
}

fn tell_chunks(config: &Config, mut line: impl FnMut(&str, String)) {
    line("chunks", format!("{} each, {} in a live playlist", print_duration(config.live.chunk), config.live.window));
    line("reconnect", format!("within {}", print_duration(config.live.reconnect_window)));
    line("renditions", ladder(config));
    if !config.ladder.is_empty() {
        let family = match config.transcode.family {
            Choice::Auto => "the first family that works here".into(),
            family => format!("{family:?}").to_lowercase(),
        };
        line("encoder", format!("{family}, up to {:.0} % of the CPUs", config.transcode.cpu_share * 100.0));
    }
}

fn ladder(config: &Config) -> String {
    let rungs = config.ladder.iter().map(|rung| format!("{} at {} kb/s", rung.title(), rung.bitrate_kbps));
    std::iter::once("source".into()).chain(rungs).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_told() {
        let expected = "\
configuration is fine
  node         node-1: gateway, origin, edge
  publishers   rtmp://0.0.0.0:1935/live, with a stream key
  viewers      http://0.0.0.0:8080/
  other nodes  127.0.0.1:8090
  data         data
  chunks       2s each, 15 in a live playlist
  reconnect    within 60s
  renditions   source, 720p at 2800 kb/s, 480p at 1200 kb/s, 360p at 700 kb/s, 160p at 250 kb/s
  encoder      the first family that works here, up to 85 % of the CPUs
";
        assert_eq!(render(&Config::default()), expected);
    }

    #[test]
    fn of_an_edge_nothing_is_told_that_it_does_not_do() {
        let mut config = Config::default();
        config.node.roles = vec![Role::Edge];
        config.edge.upstream = vec!["http://10.0.0.5:8090".parse().unwrap()];
        let expected = "\
configuration is fine
  node         node-1: edge
  viewers      http://0.0.0.0:8080/
  upstream     http://10.0.0.5:8090/
  other nodes  127.0.0.1:8090
  data         data
";
        assert_eq!(render(&config), expected);
    }

    #[test]
    fn an_open_node_without_ladder_is_told() {
        let mut config = Config::default();
        config.ladder.clear();
        config.auth.publish = Publish::Open;
        let text = render(&config);
        assert!(text.contains("renditions   source\n") && !text.contains("encoder"), "{text}");
        assert!(text.contains("WITHOUT a stream key") && text.contains("\nwarning: auth.publish"), "{text}");
    }
}
