//! Starts the log: lines for people or JSON for machines, on standard error.

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    registry::Registry,
    util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// Says why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("level {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    #[error("logs are started already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends everything of `level` (as `log.level` of the configuration) to standard error, once in a process.
pub fn init(format: LogFormat, level: &str) -> Result<(), Error> {
    let colour = super::colour(&std::io::stderr());
    let layer = layer(format, colour, std::io::stderr).with_filter(filter(level)?);
    Ok(tracing_subscriber::registry().with(layer).try_init()?)
}

/// What `level` lets through. At `info` the embedded database is held to warnings, unless it is named: what it has to say
/// about its own files at each start is nothing a streamer can use. The drivers of remote stores are silent.
fn filter(level: &str) -> Result<Targets, tracing_subscriber::filter::ParseError> {
    let asked: Targets = level.parse()?;
    if asked.default_level() != Some(LevelFilter::INFO) {
        return Ok(asked);
    }
    let quiet = ["fjall", "lsm_tree"].map(|target| (target.to_owned(), LevelFilter::WARN));
    // A store elsewhere that does not answer is told by this program, once; its driver would tell it at every try.
    let quieter = ["scylla", "object_store"].map(|target| (target.to_owned(), LevelFilter::OFF));
    Ok(quiet.into_iter().chain(quieter).chain(asked).collect::<Targets>().with_default(LevelFilter::INFO))
}

fn layer<W>(format: LogFormat, colour: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => layer.with_ansi(colour).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, level: &str) -> String {
        let sink = Sink::default();
        let copy = sink.clone();
        let layer = layer(format, false, move || copy.clone()).with_filter(filter(level).unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let _span = tracing::info_span!("line", stream = "alice").entered();
            tracing::info!(chunk = 7, "stored");
            tracing::debug!("detail");
            tracing::info!(target: "lsm_tree::tree::ingest", "housekeeping");
            tracing::warn!(target: "fjall::db", "trouble");
        });
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_has_level_span_and_fields() {
        let text = written(LogFormat::Text, "info");
        assert!(text.contains(" INFO line{stream=\"alice\"}: ") && text.contains("stored chunk=7"), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = written(LogFormat::Json, "off,weir=debug");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "stored");
        assert_eq!(lines[0]["chunk"], 7);
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["spans"][0]["stream"], "alice");
    }

    #[test]
    fn the_database_is_quiet_at_info_unless_it_is_asked() {
        let said = |level: &str| ["housekeeping", "trouble"].map(|line| written(LogFormat::Text, level).contains(line));
        for (level, expected) in [
            ("info", [false, true]),
            ("info,weir::rtmp=debug", [false, true]),
            ("info,lsm_tree=info", [true, true]),
            ("info,fjall=error", [false, false]),
            ("debug", [true, true]),
            ("warn", [false, true]),
            ("off", [false, false]),
        ] {
            assert_eq!(said(level), expected, "{level}");
        }
    }

    #[test]
    fn levels_hold_back() {
        assert_eq!(written(LogFormat::Text, "error"), "");
        assert!(!written(LogFormat::Text, "debug,weir=error").contains("stored"));
    }
}
