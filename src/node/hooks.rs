//! Whom this node tells what happens, and whom it asks, as its configuration says.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, hooks::Fail},
    hooks::{
        self, Hooks, Target,
        ask::{self, Asker},
        client::Client,
        sign::Key,
    },
};

/// A backend decides who publishes, or who watches.
pub type Asks = Option<Arc<Asker>>;

/// Starts what is configured: what is told is delivered until `stop`.
pub async fn open(config: &Config, tasks: &TaskTracker, stop: CancellationToken) -> Result<(Hooks, Asks)> {
    let (told, auth) = (&config.webhooks, &config.auth);
    let asked = [&auth.publish_url, &auth.play_url].into_iter().flatten();
    let mut urls = told.targets.iter().filter_map(|target| target.url.as_ref()).chain(asked).peekable();
    if urls.peek().is_none() {
        return Ok((Hooks::default(), None));
    }
    let secure = urls.any(|url| url.scheme() == "https");
    let client = Client::new(told.allow_private, secure)
        .map_err(|why| anyhow!("webhooks and backends cannot be spoken to by https: {why}"))?;
    let key = |secret| Key::new(secret).expect("checked with the configuration");
    let asks = (auth.publish_url.is_some() || auth.play_url.is_some()).then(|| {
        let asked = ask::Config {
            node: config.node.id.clone(),
            publish: auth.publish_url.clone(),
            play: auth.play_url.clone(),
            key: key(auth.url_secret.as_ref().expect("checked with the configuration")),
            timeout: auth.url_timeout,
            fail_open: auth.url_fail == Fail::Open,
        };
        Asker::new(asked, client.clone())
    });
    let targets = told.targets.iter().filter_map(|target| {
        let (url, secret) = (target.url.clone()?, target.secret.as_ref()?);
        Some(Target { url, key: key(secret), events: target.events.clone() })
    });
    let targets: Vec<_> = targets.collect();
    if targets.is_empty() {
        return Ok((Hooks::default(), asks));
    }
    let dir = config.data.dir.join("webhooks");
    let words = format!("webhooks cannot be kept in {}", dir.display());
    let (timeout, retry_for) = (told.timeout, told.retry_for);
    let settings = hooks::Config { node: config.node.id.clone(), dir, targets, timeout, retry_for };
    let (hooks, run) = Hooks::open(settings, client, stop).await.context(words)?;
    tasks.spawn(run);
    Ok((hooks, asks))
}
